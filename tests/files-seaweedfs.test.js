// Files and profile images on an object store that shares no code with ours: SeaweedFS.
import { filesSuite } from './support/files-suite.js';

await filesSuite('seaweedfs');
