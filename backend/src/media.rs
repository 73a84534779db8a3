//! What may be uploaded: media types, their file name endings and limits, as clients know them.
//!
//! Only what a client declares is looked at: front-ends send images under foreign types, and whoever
//! opens a file opens it under the declared type with `nosniff`.

use unicode_normalization::UnicodeNormalization;

/// Longest name of an uploaded file, in bytes of UTF-8.
const ORIGINAL_NAME_BYTES_MAX: usize = 255;

/// Largest file of any kind: 50 MiB.
pub(crate) const FILE_BYTES_MAX: u64 = 50 * MIB;

/// Largest profile image: 5 MiB.
pub(crate) const IMAGE_BYTES_MAX: u64 = 5 * MIB;

const MIB: u64 = 1024 * 1024;

const WORD: &str = "application/msword";
const WORD_XML: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";

/// A media type that files may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Media {
    /// As in `Content-Type`.
    pub(crate) essence: &'static str,
    endings: &'static [&'static str],
    kind: &'static Kind,
    /// Whether browsers show it in place.
    pub(crate) previewable: bool,
}

/// What the types of a kind have in common.
#[derive(Debug, PartialEq, Eq)]
struct Kind {
    bytes_max: u64,
    wrong_ending: &'static str,
    too_large: &'static str,
}

static IMAGE: Kind = Kind {
    bytes_max: 10 * MIB,
    wrong_ending: "이미지 확장자가 올바르지 않습니다.",
    too_large: "이미지 파일은 10MB를 초과할 수 없습니다.",
};
static VIDEO: Kind = Kind {
    bytes_max: FILE_BYTES_MAX,
    wrong_ending: "동영상 확장자가 올바르지 않습니다.",
    too_large: "동영상 파일은 50MB를 초과할 수 없습니다.",
};
static AUDIO: Kind = Kind {
    bytes_max: 20 * MIB,
    wrong_ending: "오디오 확장자가 올바르지 않습니다.",
    too_large: "오디오 파일은 20MB를 초과할 수 없습니다.",
};
static DOCUMENT: Kind = Kind {
    bytes_max: 20 * MIB,
    wrong_ending: "문서 확장자가 올바르지 않습니다.",
    too_large: "문서 파일은 20MB를 초과할 수 없습니다.",
};

static TYPES: [Media; 13] = [
    shown("image/jpeg", &["jpg", "jpeg"], &IMAGE),
    shown("image/png", &["png"], &IMAGE),
    shown("image/gif", &["gif"], &IMAGE),
    shown("image/webp", &["webp"], &IMAGE),
    shown("video/mp4", &["mp4"], &VIDEO),
    shown("video/webm", &["webm"], &VIDEO),
    kept("video/quicktime", &["mov"], &VIDEO),
    shown("audio/mpeg", &["mp3"], &AUDIO),
    shown("audio/wav", &["wav"], &AUDIO),
    kept("audio/ogg", &["ogg"], &AUDIO),
    shown("application/pdf", &["pdf"], &DOCUMENT),
    kept(WORD, &["doc"], &DOCUMENT),
    kept(WORD_XML, &["docx"], &DOCUMENT),
];

const fn shown(
    essence: &'static str,
    endings: &'static [&'static str],
    kind: &'static Kind,
) -> Media {
    Media {
        essence,
        endings,
        kind,
        previewable: true,
    }
}

const fn kept(
    essence: &'static str,
    endings: &'static [&'static str],
    kind: &'static Kind,
) -> Media {
    Media {
        previewable: false,
        ..shown(essence, endings, kind)
    }
}

impl Media {
    /// The type with this name in lower case, without parameters.
    pub(crate) fn named(essence: &str) -> Option<&'static Self> {
        TYPES.iter().find(|media| media.essence == essence)
    }

    /// The type of the image whose name ends in `ending`.
    pub(crate) fn of_image_ending(ending: &str) -> Option<&'static Self> {
        let images = TYPES.iter().filter(|media| *media.kind == IMAGE);
        images
            .into_iter()
            .find(|media| media.endings.contains(&ending))
    }
}

/// What an upload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// A file of a chat message.
    Attachment,
    /// The image beside a user's name.
    ProfileImage,
}

/// A file that somebody wants to upload, checked but for its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Name as uploaded, in NFC and without slashes.
    pub(crate) original_name: String,
    /// Ending of that name in lower case.
    pub(crate) ending: &'static str,
    pub(crate) media: &'static Media,
    purpose: Purpose,
}

/// Why a file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It has no bytes, or there is none.
    Empty(Purpose),
    /// Its name or type is not taken, for this reason.
    Unfit(&'static str),
    /// A chat file has more bytes than its type may have.
    TooLarge(&'static str),
}

/// Says that a profile image has more than 5 MiB.
pub(crate) const IMAGE_TOO_LARGE: Refusal = Refusal::Unfit("파일 크기는 5MB를 초과할 수 없습니다.");

impl Candidate {
    /// Checks a name and a declared type, in the order that clients rely on.
    pub(crate) fn check(
        purpose: Purpose,
        name: &str,
        declared_type: &str,
    ) -> Result<Self, Refusal> {
        let original_name: String = name
            .nfc()
            .filter(|c| !matches!(c, '/' | '\\') && !c.is_control())
            .collect();
        if original_name.trim().is_empty() {
            return Err(Refusal::Unfit("파일명이 올바르지 않습니다."));
        }
        if original_name.len() > ORIGINAL_NAME_BYTES_MAX {
            return Err(Refusal::Unfit("파일명이 너무 깁니다."));
        }
        let essence = declared_type.split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        let (_, ending) = original_name.rsplit_once('.').unwrap_or_default();
        let ending = ending.to_ascii_lowercase();
        if purpose == Purpose::ProfileImage
            && (!essence.starts_with("image/") || Media::of_image_ending(&ending).is_none())
        {
            return Err(Refusal::Unfit("이미지 파일만 업로드할 수 있습니다."));
        }
        let media =
            Media::named(&essence).ok_or(Refusal::Unfit("지원하지 않는 파일 형식입니다."))?;
        let known = media.endings.iter().find(|known| **known == ending);
        let ending = known.ok_or(Refusal::Unfit(media.kind.wrong_ending))?;
        Ok(Self {
            original_name,
            ending,
            media,
            purpose,
        })
    }

    /// Most bytes that it may have.
    pub(crate) const fn bytes_max(&self) -> u64 {
        match self.purpose {
            Purpose::Attachment => self.media.kind.bytes_max,
            Purpose::ProfileImage => IMAGE_BYTES_MAX,
        }
    }

    /// Says that it has more.
    pub(crate) const fn too_large(&self) -> Refusal {
        match self.purpose {
            Purpose::Attachment => Refusal::TooLarge(self.media.kind.too_large),
            Purpose::ProfileImage => IMAGE_TOO_LARGE,
        }
    }

    /// Checks a size that is known beforehand.
    pub(crate) const fn check_size(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.bytes_max() {
            Err(self.too_large())
        } else {
            Ok(())
        }
    }
}

impl Purpose {
    /// Most bytes of a file of any type.
    pub(crate) const fn bytes_max(self) -> u64 {
        match self {
            Self::Attachment => FILE_BYTES_MAX,
            Self::ProfileImage => IMAGE_BYTES_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, declared: &str) -> Result<Candidate, Refusal> {
        Candidate::check(Purpose::Attachment, name, declared)
    }

    #[test]
    fn names_are_composed_and_lose_slashes() {
        let decomposed = "../사진\u{0} 1.JPG".nfd().collect::<String>();
        let candidate = file(&decomposed, "Image/JPEG; x=y").unwrap();
        assert_eq!(candidate.original_name, "..사진 1.JPG");
        assert_eq!(
            (candidate.ending, candidate.media.essence),
            ("jpg", "image/jpeg")
        );
    }

    #[test]
    fn refusals_come_in_the_order_of_the_contract() {
        let unfit = |name: &str, declared| match file(name, declared) {
            Err(Refusal::Unfit(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(unfit("//", "text/html"), "파일명이 올바르지 않습니다.");
        assert_eq!(
            unfit(&format!("{}.x", "가".repeat(85)), "text/html"),
            "파일명이 너무 깁니다."
        );
        assert_eq!(
            unfit("a.txt", "text/plain"),
            "지원하지 않는 파일 형식입니다."
        );
        assert_eq!(
            unfit("a.png", "image/jpeg"),
            "이미지 확장자가 올바르지 않습니다."
        );
        assert_eq!(
            unfit("mp3", "audio/mpeg"),
            "오디오 확장자가 올바르지 않습니다."
        );
        assert!(file(&format!("{}.gif", "a".repeat(251)), "image/gif").is_ok());
    }

    #[test]
    fn each_kind_has_its_limit() {
        for (name, declared, mib) in [
            ("a.webp", "image/webp", 10),
            ("a.mov", "video/quicktime", 50),
            ("a.wav", "audio/wav", 20),
            ("a.docx", WORD_XML, 20),
        ] {
            let candidate = file(name, declared).unwrap();
            assert_eq!(candidate.check_size(mib * MIB), Ok(()), "{name}");
            let Err(Refusal::TooLarge(text)) = candidate.check_size(mib * MIB + 1) else {
                panic!("{name}");
            };
            assert!(text.contains(&format!("{mib}MB")), "{text}");
        }
    }

    #[test]
    fn profile_images_are_images_of_known_endings() {
        let image = |name, declared| Candidate::check(Purpose::ProfileImage, name, declared);
        assert!(image("a.jpeg", "image/jpeg").is_ok());
        let only_images = Err(Refusal::Unfit("이미지 파일만 업로드할 수 있습니다."));
        assert_eq!(image("a.pdf", "application/pdf"), only_images);
        assert_eq!(image("a.svg", "image/svg+xml"), only_images);
        assert_eq!(
            image("a.png", "image/gif"),
            Err(Refusal::Unfit("이미지 확장자가 올바르지 않습니다."))
        );
        let candidate = image("a.png", "image/png").unwrap();
        assert_eq!(
            candidate.check_size(IMAGE_BYTES_MAX + 1),
            Err(IMAGE_TOO_LARGE)
        );
    }
}
