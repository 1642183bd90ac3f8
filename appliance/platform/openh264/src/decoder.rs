//! Access units to pictures.

use std::ptr::{self, NonNull};

use openh264_sys2::{self as sys, API as _};
use soft_kvm_core::Size;
use soft_kvm_video::codec::{CodecError, I420Ref, VideoDecoder};
use soft_kvm_video::frame::Colorimetry;

use crate::nal::{Contents, inspect};
use crate::{NAME, error};

/// An OpenH264 decoder that gives each picture at once, and whole or not at all.
///
/// Nothing is concealed: after damage it refuses everything up to the next IDR, so that no broken picture is
/// ever shown. A new size is taken from the stream.
///
/// What reaches the library is checked before: at most [`MAX_ACCESS_UNIT`](crate::MAX_ACCESS_UNIT) bytes, no NAL
/// units of extensions, and parameter sets of 8-bit 4:2:0 frames of a supported size only. A lost picture shows as a
/// gap in `frame_num`; in streams whose SPS allows gaps it does not, so there the caller has to leave out what follows
/// a loss, as `VideoReceiver` of `soft-kvm-protocol` does.
#[derive(Debug)]
pub struct Decoder {
    handle: Handle,
    /// Pictures before the one expected are there.
    synchronised: bool,
    /// Of the last SPS.
    color: Colorimetry,
}

/// Owns the library's object, initialised.
#[derive(Debug)]
struct Handle(NonNull<sys::ISVCDecoder>);

// SAFETY: the object has no thread of its own (thread count 0, the default) and no tie to the thread that made
// it; only one thread at a time can reach it, because it is not `Sync` and every use takes `&mut`.
unsafe impl Send for Decoder {}

impl Decoder {
    /// Opens a decoder. It waits for an IDR.
    ///
    /// # Errors
    /// [`CodecError`] if the library refuses.
    pub fn open() -> Result<Self, CodecError> {
        Ok(Self {
            handle: Handle::create()?,
            synchronised: false,
            color: Colorimetry::default(),
        })
    }
}

impl VideoDecoder for Decoder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn decode(&mut self, access_unit: &[u8]) -> Result<Option<I420Ref<'_>>, CodecError> {
        if access_unit.is_empty() {
            return Ok(None);
        }
        // Whatever goes wrong from here on, the pictures that follow need an IDR.
        let was_synchronised = std::mem::take(&mut self.synchronised);
        let contents = inspect(access_unit, &mut self.color).map_err(error)?;
        if contents == Contents::Predicted && !was_synchronised {
            return Err(error("a picture before it is missing: an IDR is needed"));
        }
        let mut planes = [ptr::null_mut(); 3];
        let mut info = sys::SBufferInfo::default();
        self.handle.decode(access_unit, &mut planes, &mut info)?;
        if info.iBufferStatus != 1 {
            if contents != Contents::NoPicture {
                return Err(error(
                    "an access unit without a whole picture: an IDR is needed",
                ));
            }
            self.synchronised = was_synchronised;
            return Ok(None);
        }
        // SAFETY: `iBufferStatus` 1 says that the library filled the union's only member in.
        let buffer = unsafe { info.UsrData.sSystemBuffer };
        let picture = picture(planes, buffer, self.color)?;
        self.synchronised = true;
        Ok(Some(picture))
    }
}

/// The picture in the library's memory, which stays until the next call of the decoder.
///
/// The caller's borrow of the decoder gives it its lifetime.
fn picture<'a>(
    planes: [*mut u8; 3],
    buffer: sys::SSysMEMBuffer,
    color: Colorimetry,
) -> Result<I420Ref<'a>, CodecError> {
    let side = |value: i32| u32::try_from(value).unwrap_or(0);
    let size = Size::new(side(buffer.iWidth), side(buffer.iHeight));
    let [luma_stride, chroma_stride] = buffer
        .iStride
        .map(|stride| usize::try_from(stride).unwrap_or(0));
    let (width, height) = (size.width as usize, size.height as usize);
    if !size.is_supported()
        || size != size.even()
        || luma_stride < width
        || chroma_stride < width / 2
        || buffer.iFormat != sys::videoFormatI420
        || planes.iter().any(|plane| plane.is_null())
    {
        return Err(error(format!(
            "the stream has pictures of {size}, which can't be shown"
        )));
    }
    let [luma, cb, cr] = planes;
    let plane = |data: *mut u8, stride: usize, lines: usize| {
        // SAFETY: not null. It is the coded picture's first pixel: `nal::inspect` let no SPS through that crops at
        // the left or the top. The library pads every picture with 32 (chroma 16) columns and lines on each side
        // (pic_queue.cpp, AllocPicture), and no size after cropping is larger than the coded one, so whole
        // strides from there on lie inside its memory.
        unsafe { std::slice::from_raw_parts(data, stride * lines) }
    };
    Ok(I420Ref {
        size,
        planes: [
            plane(luma, luma_stride, height),
            plane(cb, chroma_stride, height / 2),
            plane(cr, chroma_stride, height / 2),
        ],
        strides: [luma_stride, chroma_stride, chroma_stride],
        color,
    })
}

impl Handle {
    fn create() -> Result<Self, CodecError> {
        let mut decoder = ptr::null_mut();
        // SAFETY: the function writes one pointer to the place given.
        let code = unsafe { sys::DynamicAPI::from_source().WelsCreateDecoder(&raw mut decoder) };
        if code != 0 {
            return Err(error(format!("WelsCreateDecoder failed ({code})")));
        }
        let handle = NonNull::new(decoder)
            .map(Self)
            .ok_or_else(|| error("no memory for a decoder"))?;
        let table = handle.table()?;
        let mut quiet = sys::WELS_LOG_QUIET;
        // The library writes to standard error unless told not to; its results say enough.
        // SAFETY: the object is alive; the option takes a pointer to an int, which is copied.
        unsafe {
            table.SetOption.ok_or_else(missing)?(
                handle.0.as_ptr(),
                sys::DECODER_OPTION_TRACE_LEVEL,
                (&raw mut quiet).cast(),
            )
        };
        let parameters = sys::SDecodingParam {
            uiTargetDqLayer: u8::MAX,
            eEcActiveIdc: sys::ERROR_CON_DISABLE,
            sVideoProperty: sys::SVideoProperty {
                size: u32::try_from(size_of::<sys::SVideoProperty>()).unwrap_or(0),
                eVideoBsType: sys::VIDEO_BITSTREAM_AVC,
            },
            ..sys::SDecodingParam::default()
        };
        // SAFETY: the object is alive; the library copies the parameters.
        let code = unsafe {
            table.Initialize.ok_or_else(missing)?(handle.0.as_ptr(), &raw const parameters)
        };
        if code != 0 {
            return Err(error(format!("Initialize failed ({code})")));
        }
        Ok(handle)
    }

    /// The object's functions.
    fn table(&self) -> Result<&sys::ISVCDecoderVtbl, CodecError> {
        // SAFETY: the object is alive until drop and starts with the pointer to its table, which is static.
        unsafe { (*self.0.as_ptr()).as_ref() }.ok_or_else(missing)
    }

    fn decode(
        &mut self,
        access_unit: &[u8],
        planes: &mut [*mut u8; 3],
        info: &mut sys::SBufferInfo,
    ) -> Result<(), CodecError> {
        let length = i32::try_from(access_unit.len())
            .map_err(|_| error("an access unit of more than 2 GiB"))?;
        let decode = self.table()?.DecodeFrameNoDelay.ok_or_else(missing)?;
        // SAFETY: the object is alive and initialised; the input is `length` bytes long and only read within
        // the call; the library writes three pointers and the struct, which outlive the call.
        let state = unsafe {
            decode(
                self.0.as_ptr(),
                access_unit.as_ptr(),
                length,
                planes.as_mut_ptr(),
                info,
            )
        };
        check(state)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(sys::ISVCDecoderVtbl {
            Uninitialize: Some(uninitialize),
            ..
        }) = self.table()
        {
            // SAFETY: the object is alive; uninitialising one that was not initialised does nothing.
            unsafe { uninitialize(self.0.as_ptr()) };
        }
        // SAFETY: made by WelsCreateDecoder and destroyed once, here.
        unsafe { sys::DynamicAPI::from_source().WelsDestroyDecoder(self.0.as_ptr()) };
    }
}

fn missing() -> CodecError {
    error("the library lacks a function")
}

/// `DECODING_STATE` of codec_app_def.h: bits.
fn check(state: sys::DECODING_STATE) -> Result<(), CodecError> {
    const MEANINGS: [(sys::DECODING_STATE, &str); 7] = [
        (sys::dsRefLost, "a reference picture is missing"),
        (sys::dsBitstreamError, "the bitstream is damaged"),
        (sys::dsNoParamSets, "SPS or PPS are missing"),
        (sys::dsDataErrorConcealed, "damage was concealed"),
        (sys::dsRefListNullPtrs, "the reference list is damaged"),
        (sys::dsOutOfMemory, "out of memory"),
        (sys::dsInvalidArgument, "invalid argument"),
    ];
    if state == sys::dsErrorFree {
        return Ok(());
    }
    let meaning = MEANINGS
        .iter()
        .find(|(bit, _)| state & bit != 0)
        .map_or("failed", |(_, meaning)| meaning);
    Err(error(format!(
        "{meaning} (state {state:#x}): an IDR is needed"
    )))
}
