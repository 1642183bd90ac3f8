//! Pictures to access units.

use std::ptr::{self, NonNull};

use openh264_sys2::{self as sys, API as _};
use soft_kvm_core::Bitrate;
use soft_kvm_video::codec::{CodecError, Encoded, EncoderConfig, I420Ref, VideoEncoder};
use soft_kvm_video::level::h264_level;

use crate::{NAME, error};

/// Below this more bits do not show; a still picture's refreshes go down to it.
const MIN_QP: i32 = 16;
/// Above this text is no longer readable; more bits than asked for are better than that.
const MAX_QP: i32 = 42;

/// No upper limit besides the target (`UNSPECIFIED_BIT_RATE` of codec_app_def.h).
const UNSPECIFIED: i32 = 0;

/// An OpenH264 encoder, tuned for interactive pictures.
///
/// Camera mode, low complexity, one thread, one slice, no frame left out, no key frame unless asked for;
/// each IDR with SPS and PPS before it. BT.709 limited range in the VUI.
#[derive(Debug)]
pub struct Encoder {
    handle: Handle,
    config: EncoderConfig,
    pictures: u64,
    output: Box<sys::SFrameBSInfo>,
}

/// Owns the library's object.
#[derive(Debug)]
struct Handle(NonNull<sys::ISVCEncoder>);

// SAFETY: the object has no thread of its own (one thread, set below) and no tie to the thread that made
// it; only one thread at a time can reach it, because it is not `Sync` and every use takes `&mut`.
unsafe impl Send for Encoder {}

impl Encoder {
    /// Opens an encoder. The first picture becomes an IDR.
    ///
    /// # Errors
    /// [`CodecError`] if the size is odd or out of bounds, or the library refuses.
    pub fn open(config: EncoderConfig) -> Result<Self, CodecError> {
        if !config.size.is_supported() || config.size != config.size.even() {
            return Err(error(format!(
                "pictures of {} can't be encoded: 16x16 to 3840x2160, even, is what works",
                config.size
            )));
        }
        let mut handle = Handle::create()?;
        handle.silence();
        let mut parameters = sys::SEncParamExt::default();
        // SAFETY: the object is alive, and the struct lives until the call returns.
        let code = unsafe {
            handle.table()?.GetDefaultParams.ok_or_else(missing)?(
                handle.0.as_ptr(),
                &raw mut parameters,
            )
        };
        check(code, "GetDefaultParams")?;
        tune(&mut parameters, config)?;
        // SAFETY: as above; the library copies the parameters.
        let code = unsafe {
            handle.table()?.InitializeExt.ok_or_else(missing)?(
                handle.0.as_ptr(),
                &raw const parameters,
            )
        };
        check(code, "InitializeExt")?;
        Ok(Self {
            handle,
            config,
            pictures: 0,
            output: Box::default(),
        })
    }

    /// What it was opened with, and the bitrate as it is now.
    #[must_use]
    pub fn config(&self) -> EncoderConfig {
        self.config
    }
}

impl VideoEncoder for Encoder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn encode(
        &mut self,
        picture: I420Ref<'_>,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        out.clear();
        let source = self.source(picture)?;
        let encoder = self.handle.0.as_ptr();
        let table = self.handle.table()?;
        if idr {
            // SAFETY: the object is alive and initialised.
            let code = unsafe { table.ForceIntraFrame.ok_or_else(missing)?(encoder, true) };
            check(code, "ForceIntraFrame")?;
        }
        // SAFETY: the object is alive and initialised. `source` describes memory that `picture` borrows and whose
        // length `source()` checked; the library only reads it, within this call. The output struct is ours.
        let code = unsafe {
            table.EncodeFrame.ok_or_else(missing)?(
                encoder,
                &raw const source,
                &raw mut *self.output,
            )
        };
        check(code, "EncodeFrame")?;
        self.pictures += 1;
        self.append_output(out)?;
        Ok(Encoded {
            idr: self.output.eFrameType == sys::videoFrameTypeIDR,
        })
    }

    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecError> {
        let mut info = sys::SBitrateInfo {
            iLayer: sys::SPATIAL_LAYER_ALL,
            iBitrate: bits(bitrate),
        };
        self.handle.set_option(
            sys::ENCODER_OPTION_BITRATE,
            &mut info,
            "ENCODER_OPTION_BITRATE",
        )?;
        self.config.bitrate = bitrate;
        Ok(())
    }
}

impl Encoder {
    /// Describes the picture to the library, once its memory is known to be long enough.
    fn source(&self, picture: I420Ref<'_>) -> Result<sys::SSourcePicture, CodecError> {
        let size = self.config.size;
        if picture.size != size {
            return Err(error(format!(
                "a picture of {} came to an encoder for {size}: open another one",
                picture.size
            )));
        }
        let mut source = sys::SSourcePicture {
            iColorFormat: sys::videoFormatI420,
            iPicWidth: side(size.width)?,
            iPicHeight: side(size.height)?,
            uiTimeStamp: i64::try_from(self.pictures * 1_000 / u64::from(self.config.rate.as_hz()))
                .unwrap_or(i64::MAX),
            ..sys::SSourcePicture::default()
        };
        let (width, height) = (size.width as usize, size.height as usize);
        let needed = [
            (width, height),
            (width / 2, height / 2),
            (width / 2, height / 2),
        ];
        let given = picture.planes.iter().zip(picture.strides).zip(needed);
        let targets = source.pData.iter_mut().zip(&mut source.iStride);
        for ((data, stride), ((plane, plane_stride), (width, lines))) in targets.zip(given) {
            if plane_stride < width || plane.len() < plane_stride * (lines - 1) + width {
                return Err(error("the picture's memory is shorter than its size"));
            }
            *data = plane.as_ptr().cast_mut();
            *stride = i32::try_from(plane_stride).map_err(|_| error("stride out of range"))?;
        }
        Ok(source)
    }

    /// Copies the NAL units, which have their start codes already.
    fn append_output(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        if self.output.eFrameType == sys::videoFrameTypeSkip {
            return Ok(());
        }
        let count = usize::try_from(self.output.iLayerNum).unwrap_or(0);
        for layer in self.output.sLayerInfo.iter().take(count) {
            let units = usize::try_from(layer.iNalCount).unwrap_or(0);
            if units == 0 || layer.pNalLengthInByte.is_null() || layer.pBsBuf.is_null() {
                continue;
            }
            // SAFETY: the library says that the array has this many lengths; it stays until the next call.
            let lengths = unsafe { std::slice::from_raw_parts(layer.pNalLengthInByte, units) };
            let bytes = lengths.iter().try_fold(0_usize, |sum, &length| {
                usize::try_from(length)
                    .ok()
                    .and_then(|length| sum.checked_add(length))
            });
            let bytes = bytes.ok_or_else(|| error("a NAL unit of negative length"))?;
            // SAFETY: the layer's NAL units lie one after the other in its buffer (codec_app_def.h,
            // SLayerBSInfo); it stays until the next call.
            out.extend_from_slice(unsafe { std::slice::from_raw_parts(layer.pBsBuf, bytes) });
        }
        Ok(())
    }
}

impl Handle {
    fn create() -> Result<Self, CodecError> {
        let mut encoder = ptr::null_mut();
        // SAFETY: the function writes one pointer to the place given.
        let code = unsafe { sys::DynamicAPI::from_source().WelsCreateSVCEncoder(&raw mut encoder) };
        check(code, "WelsCreateSVCEncoder")?;
        NonNull::new(encoder)
            .map(Self)
            .ok_or_else(|| error("no memory for an encoder"))
    }

    /// The object's functions.
    fn table(&self) -> Result<&sys::ISVCEncoderVtbl, CodecError> {
        // SAFETY: the object is alive until drop and starts with the pointer to its table, which is static.
        unsafe { (*self.0.as_ptr()).as_ref() }.ok_or_else(missing)
    }

    /// The library writes to standard error unless told not to; its results say enough.
    fn silence(&mut self) {
        let mut quiet = sys::WELS_LOG_QUIET;
        let _ = self.set_option(sys::ENCODER_OPTION_TRACE_LEVEL, &mut quiet, "trace level");
    }

    fn set_option<T>(
        &mut self,
        option: sys::ENCODER_OPTION,
        value: &mut T,
        name: &str,
    ) -> Result<(), CodecError> {
        let set = self.table()?.SetOption.ok_or_else(missing)?;
        // SAFETY: the callers pass the type that codec_app_def.h names for the option; the library copies it.
        let code = unsafe { set(self.0.as_ptr(), option, ptr::from_mut(value).cast()) };
        check(code, name)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(sys::ISVCEncoderVtbl {
            Uninitialize: Some(uninitialize),
            ..
        }) = self.table()
        {
            // SAFETY: the object is alive; uninitialising one that was not initialised does nothing.
            unsafe { uninitialize(self.0.as_ptr()) };
        }
        // SAFETY: made by WelsCreateSVCEncoder and destroyed once, here.
        unsafe { sys::DynamicAPI::from_source().WelsDestroySVCEncoder(self.0.as_ptr()) };
    }
}

fn tune(parameters: &mut sys::SEncParamExt, config: EncoderConfig) -> Result<(), CodecError> {
    let EncoderConfig {
        size,
        rate,
        bitrate,
        intra_refresh: _,
    } = config;
    #[expect(clippy::cast_precision_loss, reason = "frame rates are small")]
    let hz = rate.as_hz() as f32;
    parameters.iUsageType = sys::CAMERA_VIDEO_REAL_TIME;
    parameters.iPicWidth = side(size.width)?;
    parameters.iPicHeight = side(size.height)?;
    parameters.fMaxFrameRate = hz;
    parameters.iTargetBitrate = bits(bitrate);
    parameters.iMaxBitrate = UNSPECIFIED;
    parameters.iRCMode = sys::RC_BITRATE_MODE;
    parameters.bEnableFrameSkip = false;
    parameters.iMinQp = MIN_QP;
    parameters.iMaxQp = MAX_QP;
    parameters.iComplexityMode = sys::LOW_COMPLEXITY;
    parameters.iMultipleThreadIdc = 1;
    parameters.uiIntraPeriod = 0;
    parameters.iNumRefFrame = 1;
    parameters.eSpsPpsIdStrategy = sys::CONSTANT_ID;
    parameters.iEntropyCodingModeFlag = 0;
    parameters.bPrefixNalAddingCtrl = false;
    parameters.bEnableSSEI = false;
    parameters.bEnableLongTermReference = false;
    parameters.bEnableDenoise = false;
    parameters.bEnableBackgroundDetection = false;
    parameters.bEnableAdaptiveQuant = false;
    parameters.bEnableSceneChangeDetect = false;
    parameters.bEnableFrameCroppingFlag = true;
    parameters.iTemporalLayerNum = 1;
    parameters.iSpatialLayerNum = 1;
    let [layer, ..] = &mut parameters.sSpatialLayers;
    layer.iVideoWidth = parameters.iPicWidth;
    layer.iVideoHeight = parameters.iPicHeight;
    layer.fFrameRate = hz;
    layer.iSpatialBitrate = parameters.iTargetBitrate;
    layer.iMaxSpatialBitrate = UNSPECIFIED;
    layer.uiProfileIdc = sys::PRO_BASELINE;
    layer.uiLevelIdc = h264_level(size, rate, bitrate).into();
    layer.sSliceArgument.uiSliceMode = sys::SM_SINGLE_SLICE;
    layer.sSliceArgument.uiSliceNum = 1;
    layer.bVideoSignalTypePresent = true;
    layer.uiVideoFormat = byte(sys::VF_UNDEF);
    layer.bFullRange = false;
    layer.bColorDescriptionPresent = true;
    layer.uiColorPrimaries = byte(sys::CP_BT709);
    layer.uiTransferCharacteristics = byte(sys::TRC_BT709);
    layer.uiColorMatrix = byte(sys::CM_BT709);
    Ok(())
}

fn byte(value: i32) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

fn side(pixels: u32) -> Result<i32, CodecError> {
    i32::try_from(pixels).map_err(|_| error("size out of range"))
}

/// The library counts bits in 32; it clips to what it can do.
fn bits(bitrate: Bitrate) -> i32 {
    i32::try_from(bitrate.as_bps().max(1)).unwrap_or(i32::MAX)
}

fn missing() -> CodecError {
    error("the library lacks a function")
}

/// `CM_RETURN` of codec_app_def.h.
fn check(code: i32, what: &str) -> Result<(), CodecError> {
    if code == sys::cmResultSuccess {
        return Ok(());
    }
    let meaning = match code {
        sys::cmInitParaError => "parameters refused",
        sys::cmMallocMemeError => "out of memory",
        sys::cmInitExpected => "not initialised",
        sys::cmUnsupportedData => "unsupported data",
        _ => "failed",
    };
    Err(error(format!("{what}: {meaning} ({code})")))
}
