// Files and profile images on the object store that ./run brings.
import { filesSuite } from './support/files-suite.js';

await filesSuite('embedded');
