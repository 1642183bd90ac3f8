//! Colours as V4L2 tells them, with the defaults of `<linux/videodev2.h>`.

use soft_kvm_core::{FourCc, Size};
use soft_kvm_video::frame::{Colorimetry, Matrix, Range};

use super::abi::{colorspace, quantization, ycbcr_enc};
use super::format::{self, Layout};

/// The three fields of `struct v4l2_pix_format` that say what samples mean; zeros are defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// `enum v4l2_colorspace`.
    pub(super) colorspace: u32,
    /// `enum v4l2_ycbcr_encoding`.
    pub(super) ycbcr_enc: u32,
    /// `enum v4l2_quantization`.
    pub(super) quantization: u32,
}

impl Fields {
    /// What pictures of these colours are declared as to a device.
    pub(super) fn of(color: Colorimetry, rgb: bool) -> Self {
        let (colorspace, ycbcr_enc) = match color.matrix {
            _ if rgb => (colorspace::SRGB, 0),
            Matrix::Bt601 => (colorspace::SMPTE170M, ycbcr_enc::BT601),
            Matrix::Bt709 => (colorspace::REC709, ycbcr_enc::BT709),
            Matrix::Bt2020 => (colorspace::BT2020, ycbcr_enc::BT2020),
        };
        let quantization = match color.range {
            Range::Full => quantization::FULL,
            Range::Limited => quantization::LIMITED,
        };
        Self {
            colorspace,
            ycbcr_enc: ycbcr_enc.into(),
            quantization: quantization.into(),
        }
    }

    /// The same where a codec that tells nothing means BT.709, as all our streams do, whatever their size.
    pub(super) fn or_bt709(mut self) -> Self {
        if self.colorspace == 0 {
            self.colorspace = colorspace::REC709;
        }
        self
    }

    /// What pictures of this format and size have for colours once they are in CPU memory.
    pub(super) fn colorimetry(self, code: FourCc, size: Size) -> Colorimetry {
        let rgb = match format::layout(code) {
            // The decoder makes RGB of JFIF's BT.601 full range, whatever the driver says.
            Some(Layout::Jpeg) => return Colorimetry::RGB,
            Some(Layout::Raw(format)) => !format.is_ycbcr(),
            None => false,
        };
        // V4L2_MAP_COLORSPACE_DEFAULT for video; standard definition ends at 576 lines.
        let colorspace = match self.colorspace {
            0 if size.height <= 576 => colorspace::SMPTE170M,
            0 => colorspace::REC709,
            given => given,
        };
        let matrix = match self.ycbcr_enc {
            // V4L2_MAP_YCBCR_ENC_DEFAULT.
            0 => match colorspace {
                // SMPTE 240M's weights are within 0.015 of BT.709's.
                colorspace::REC709 | colorspace::DCI_P3 | colorspace::SMPTE240M => Matrix::Bt709,
                colorspace::BT2020 => Matrix::Bt2020,
                _ => Matrix::Bt601,
            },
            // V4L2_YCBCR_ENC_709, XV709, SMPTE240M.
            2 | 4 | 8 => Matrix::Bt709,
            // V4L2_YCBCR_ENC_BT2020; BT2020_CONST_LUM is not linear, and nearest to it.
            6 | 7 => Matrix::Bt2020,
            // V4L2_YCBCR_ENC_601, XV601, SYCC.
            _ => Matrix::Bt601,
        };
        let range = match self.quantization {
            // V4L2_QUANTIZATION_FULL_RANGE, V4L2_QUANTIZATION_LIM_RANGE.
            1 => Range::Full,
            2 => Range::Limited,
            // V4L2_MAP_QUANTIZATION_DEFAULT.
            _ if rgb || colorspace == colorspace::JPEG => Range::Full,
            _ => Range::Limited,
        };
        // RGB has no matrix: one value, so that equal pictures are equal.
        let matrix = if rgb { Colorimetry::RGB.matrix } else { matrix };
        Colorimetry { matrix, range }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_what_is_read() {
        let (size, code) = (Size::new(640, 480), FourCc::new(b"NV12"));
        for matrix in [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020] {
            for range in [Range::Full, Range::Limited] {
                let color = Colorimetry { matrix, range };
                assert_eq!(Fields::of(color, false).colorimetry(code, size), color);
            }
        }
        let rgb = FourCc::new(b"BGR3");
        let told = Fields::of(Colorimetry::RGB, true).colorimetry(rgb, size);
        assert_eq!(told, Colorimetry::RGB);
        let untold = Fields::default().or_bt709().colorimetry(code, size);
        assert_eq!(untold, Colorimetry::default());
    }

    #[test]
    fn defaults_are_those_of_the_header() {
        let (sd, hd) = (Size::new(720, 576), Size::new(1280, 720));
        let (lim, full) = (Range::Limited, Range::Full);
        // colorspace, encoding, quantization as numbers of the header; the size counts without a colorspace only.
        for (fields, size, matrix, range) in [
            ((0, 0, 0), sd, Matrix::Bt601, lim),
            ((0, 0, 0), hd, Matrix::Bt709, lim),
            ((1, 0, 0), hd, Matrix::Bt601, lim),
            ((3, 0, 0), sd, Matrix::Bt709, lim),
            ((7, 0, 0), hd, Matrix::Bt601, full),
            ((8, 0, 0), hd, Matrix::Bt601, lim),
            ((8, 2, 1), sd, Matrix::Bt709, full),
            ((10, 0, 0), hd, Matrix::Bt2020, lim),
            ((3, 1, 0), hd, Matrix::Bt601, lim),
            ((3, 6, 1), hd, Matrix::Bt2020, full),
            ((12, 0, 2), hd, Matrix::Bt709, lim),
            ((99, 99, 99), hd, Matrix::Bt601, lim),
        ] {
            let (colorspace, ycbcr_enc, quantization) = fields;
            let told = Fields {
                colorspace,
                ycbcr_enc,
                quantization,
            };
            for code in [b"NV12", b"YUYV", b"UYVY", b"YM12"] {
                let color = told.colorimetry(FourCc::new(code), size);
                assert_eq!(color, Colorimetry { matrix, range }, "{fields:?}");
            }
        }
    }

    #[test]
    fn rgb_is_full_range_unless_it_says_limited_and_jpeg_always_is() {
        let size = Size::new(1280, 720);
        let told = |quantization| Fields {
            colorspace: 8,
            ycbcr_enc: 1,
            quantization,
        };
        let limited = Colorimetry {
            range: Range::Limited,
            ..Colorimetry::RGB
        };
        for (code, quantization, color) in [
            (b"RGB3", 0, Colorimetry::RGB),
            (b"XR24", 1, Colorimetry::RGB),
            (b"BGR4", 2, limited),
            (b"MJPG", 2, Colorimetry::RGB),
        ] {
            assert_eq!(
                told(quantization).colorimetry(FourCc::new(code), size),
                color
            );
        }
    }
}
