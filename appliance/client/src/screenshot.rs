//! One decoded picture in a PNG file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use soft_kvm_core::Size;
use soft_kvm_video::codec::I420Ref;
use soft_kvm_video::convert::standard;
use soft_kvm_video::cursor::{Cursor, over};

use crate::view::convert::{BadPicture, planar_image};

/// Why a screenshot was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScreenshotError {
    /// The decoder's planes do not fit the picture's size.
    #[error("the picture cannot be converted: {0}")]
    Picture(#[from] BadPicture),
    /// The file exists, and `overwrite` was not given.
    #[error("{}: the file exists: give another name, or allow overwriting it", .0.display())]
    Exists(PathBuf),
    /// The file system said no.
    #[error("{}: cannot write the screenshot: {source}", .path.display())]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes `picture`, with the cursor over it, as an RGB PNG. The file appears complete or not at all: it is written under another name
/// in the same folder, flushed to the disk, and renamed.
///
/// # Errors
/// [`ScreenshotError`]; nothing is left behind.
pub fn write_png(
    path: &Path,
    picture: I420Ref<'_>,
    cursor: &Cursor,
    overwrite: bool,
) -> Result<(), ScreenshotError> {
    let mut rgb = to_rgb(picture)?;
    draw_cursor(&mut rgb, picture.size, cursor);
    let failed = |source| ScreenshotError::Write {
        path: path.to_owned(),
        source,
    };
    if !overwrite && path.exists() {
        return Err(ScreenshotError::Exists(path.to_owned()));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".screenshot-")
        .suffix(".png")
        .permissions(readable())
        .tempfile_in(folder)
        .map_err(failed)?;
    encode(file.as_file_mut(), picture.size, &rgb).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let kept = if overwrite {
        file.persist(path)
    } else {
        file.persist_noclobber(path)
    };
    kept.map(drop).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => ScreenshotError::Exists(path.to_owned()),
        _ => failed(error.error),
    })
}

/// Temporary files are private by default; a screenshot has the usual rights less the umask.
fn readable() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o666)
}

fn to_rgb(picture: I420Ref<'_>) -> Result<Vec<u8>, BadPicture> {
    let image = planar_image(picture)?;
    let mut rgb = vec![0; picture.size.pixels() * 3];
    let (range, matrix) = standard(picture.color);
    let stride = picture.size.width * 3;
    yuv::yuv420_to_rgb(&image, &mut rgb, stride, range, matrix)
        .map_err(|error| BadPicture::new(picture.size, &error))?;
    Ok(rgb)
}

fn draw_cursor(rgb: &mut [u8], size: Size, cursor: &Cursor) {
    let Some(image) = &cursor.image else {
        return;
    };
    let (pixels, _) = rgb.as_chunks_mut::<3>();
    image.draw(cursor.position, size, |at, [blue, green, red, alpha]| {
        if let Some(pixel) = pixels.get_mut(at) {
            let [r, g, b] = *pixel;
            *pixel = [
                over(r, red, alpha),
                over(g, green, alpha),
                over(b, blue, alpha),
            ];
        }
    });
}

fn encode(file: &mut File, size: Size, rgb: &[u8]) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    let mut encoder = png::Encoder::new(&mut out, size.width, size.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use soft_kvm_video::frame::Colorimetry;

    use super::*;

    /// Y, Cb, Cr of BT.709 limited range, and the colour that comes out.
    const COLOURS: [([u8; 3], [u8; 3]); 5] = [
        ([16, 128, 128], [0, 0, 0]),
        ([235, 128, 128], [255, 255, 255]),
        ([63, 102, 240], [255, 0, 0]),
        ([173, 42, 26], [0, 255, 0]),
        ([32, 240, 118], [0, 0, 255]),
    ];

    fn one_colour([y, cb, cr]: [u8; 3]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        (vec![y; 32 * 16], vec![cb; 16 * 8], vec![cr; 16 * 8])
    }

    fn picture<'a>((y, cb, cr): &'a (Vec<u8>, Vec<u8>, Vec<u8>)) -> I420Ref<'a> {
        I420Ref {
            size: Size::new(32, 16),
            planes: [y, cb, cr],
            strides: [32, 16, 16],
            color: Colorimetry::default(),
        }
    }

    #[test]
    fn known_colours_come_back_from_the_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (index, (ycc, rgb)) in COLOURS.into_iter().enumerate() {
            let path = folder.path().join(format!("{index}.png"));
            write_png(&path, picture(&one_colour(ycc)), &Cursor::default(), false)
                .expect("a picture that fits");
            let file = io::BufReader::new(File::open(&path).expect("the screenshot"));
            let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
            let mut pixels = vec![0; reader.output_buffer_size().expect("a small picture")];
            let info = reader.next_frame(&mut pixels).expect("its picture");
            assert_eq!((info.width, info.height), (32, 16));
            for pixel in pixels.chunks_exact(3) {
                for (got, expected) in pixel.iter().zip(rgb) {
                    assert!(
                        got.abs_diff(expected) <= 3,
                        "{ycc:?}: {pixel:?}, not {rgb:?}"
                    );
                }
            }
        }
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .expect("the folder")
            .collect();
        assert_eq!(left.len(), COLOURS.len(), "no temporary file is left");
    }

    #[test]
    fn an_existing_file_is_kept_unless_asked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("taken.png");
        std::fs::write(&path, b"mine").expect("a file");
        let data = one_colour([16, 128, 128]);
        let error = write_png(&path, picture(&data), &Cursor::default(), false)
            .expect_err("the file exists");
        assert!(matches!(error, ScreenshotError::Exists(_)), "{error}");
        assert_eq!(std::fs::read(&path).expect("the file"), b"mine");
        write_png(&path, picture(&data), &Cursor::default(), true)
            .expect("overwriting was allowed");
        assert_ne!(std::fs::read(&path).expect("the file"), b"mine");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let path = Path::new("/nonexistent/folder/a.png");
        let data = one_colour([16, 128, 128]);
        let error =
            write_png(path, picture(&data), &Cursor::default(), false).expect_err("no such folder");
        assert!(
            error.to_string().contains("/nonexistent/folder/a.png"),
            "{error}"
        );
    }
}
