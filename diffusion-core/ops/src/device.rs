//! Devices, and a description of the machine.

use candle_core::utils::{cuda_is_available, get_num_threads, metal_is_available};
use candle_core::{Device, DeviceLocation};
use std::fmt;
use std::process::Command;
use std::str::FromStr;
use std::sync::OnceLock;

#[cfg(feature = "cuda")]
mod cublas_lt;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(lazy_driver)]
mod driver;
mod memory;
mod precision;

#[cfg(feature = "cuda")]
pub use cuda::peak_memory;
pub use memory::{available_memory, ensure_room, out_of_memory, too_little, used_memory};
pub use precision::Precision;
#[cfg(feature = "cuda")]
pub(crate) use precision::tf32;

/// The best available device: CUDA, otherwise Metal, otherwise the CPU.
///
/// CUDA and Metal are only tried if diffusion-core was built with them, through the features `cuda` and `metal`
/// (`make lab FEATURES=cuda` enables one for all notebooks; on Apple machines Metal is always built in). A device that
/// is built in but does not work, for example without a driver, is skipped; [`Setup`] and [`Choice::open`] report why.
pub fn best() -> Device {
    choose().0
}

/// The best device, and why a better one was skipped.
fn choose() -> (Device, Option<String>) {
    let mut passed_over = Vec::new();
    let cuda = cuda_is_available().then_some(("CUDA", open_cuda as fn() -> _));
    let metal = metal_is_available().then_some(("Metal", open_metal as fn() -> _));
    for (name, open) in cuda.into_iter().chain(metal) {
        match open() {
            Ok(device) => return (device, None),
            Err(reason) => {
                passed_over.push(format!("{name} is built in but cannot be used: {reason}"));
            }
        }
    }
    let note = passed_over.join("; ");
    let note = (!note.is_empty()).then(|| format!("{note}; computing on the CPU"));
    (Device::Cpu, note)
}

#[cfg(feature = "cuda")]
use cuda::open as open_cuda;

#[cfg(not(feature = "cuda"))]
fn open_cuda() -> Result<Device, String> {
    Err("this build does not support CUDA; build it with `--features cuda`".to_owned())
}

/// Opened once, because candle regards the tensors of two handles as being on two devices.
fn open_metal() -> Result<Device, String> {
    static DEVICE: OnceLock<Result<Device, String>> = OnceLock::new();
    let first = || {
        let opened = Device::new_metal(0);
        opened.map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
    };
    DEVICE.get_or_init(first).clone()
}

/// A device by name, as on the command line: `auto`, `cpu`, `cuda` or `metal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The [`best`] device.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
    /// The Metal device.
    Metal,
}

impl Choice {
    /// Opens the device.
    ///
    /// # Errors
    /// diffusion-core was built without the device, or it does not work: the message says why.
    pub fn device(self) -> anyhow::Result<Device> {
        Ok(self.open()?.0)
    }

    /// Opens the device; [`Choice::Auto`] also returns why a better one was skipped, if so.
    ///
    /// # Errors
    /// See [`Choice::device`].
    pub fn open(self) -> anyhow::Result<(Device, Option<String>)> {
        let (name, opened) = match self {
            Self::Auto => return Ok(choose()),
            Self::Cpu => return Ok((Device::Cpu, None)),
            Self::Metal if !metal_is_available() => {
                anyhow::bail!("this build does not support Metal, which exists on Apple machines only")
            }
            Self::Cuda => ("CUDA", open_cuda()),
            Self::Metal => ("Metal", open_metal()),
        };
        let cannot = |reason| anyhow::anyhow!("{name} cannot be used: {reason}; use the device cpu instead");
        Ok((opened.map_err(cannot)?, None))
    }
}

impl FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "metal" => Ok(Self::Metal),
            _ => anyhow::bail!("there is no device {name:?}: choose auto, cpu, cuda or metal"),
        }
    }
}

/// The facts that a notebook's set-up cell displays: device, threads, memory, versions, seed.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// let setup = diffusion_core::device::Setup::new(42);
/// assert!(setup.to_string().contains("seed"));
/// assert!(setup.threads >= 1);
/// ```
#[derive(Clone, Debug)]
pub struct Setup {
    /// The [`best`] device.
    pub device: Device,
    /// Why a better device was skipped, if one was.
    pub note: Option<String>,
    /// The name and the memory in bytes of a CUDA device.
    pub gpu: Option<(String, u64)>,
    /// The processor's name, as reported by the operating system.
    pub processor: Option<String>,
    /// The number of CPU threads for tensor operations.
    pub threads: usize,
    /// The main memory in bytes.
    pub memory: Option<u64>,
    /// The seed of the notebook's random numbers.
    pub seed: u64,
}

impl Setup {
    /// Collects the facts about this machine.
    pub fn new(seed: u64) -> Self {
        let (device, note) = choose();
        let (processor, memory) = machine();
        Self { gpu: gpu(&device), device, note, processor, threads: get_num_threads(), memory, seed }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
        let name = name(&self.device, self.gpu.as_ref());
        let device = match &self.gpu {
            Some((_, bytes)) => format!("{name}, {}", gib(*bytes)),
            None => name,
        };
        let processor = self.processor.as_deref().unwrap_or("of unknown name");
        let memory = self.memory.map_or("unknown".to_owned(), gib);
        let versions = format!(
            "diffusion-core {}, candle {}, rustc {}",
            env!("CARGO_PKG_VERSION"),
            env!("CANDLE_VERSION"),
            env!("RUSTC_VERSION")
        );
        let mut rows = vec![("device", device)];
        rows.extend(self.note.clone().map(|note| ("note", note)));
        rows.extend([
            ("processor", format!("{processor} ({})", std::env::consts::OS)),
            ("threads", self.threads.to_string()),
            ("memory", memory),
            ("versions", versions),
            ("seed", self.seed.to_string()),
        ]);
        rows
    }

    /// Displays the table in a notebook.
    pub fn evcxr_display(&self) {
        println!("EVCXR_BEGIN_CONTENT text/plain\n{self}\nEVCXR_END_CONTENT");
    }
}

/// Prints one line for each fact.
impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let lines: Vec<String> = rows.iter().map(|(name, value)| format!("{name:10} {value}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Describes `device` for a model card: processor and threads, and the GPU if there is one.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// let words = diffusion_core::device::described(&diffusion_core::candle::Device::Cpu);
/// assert!(words.contains("thread") && !words.contains("GPU"));
/// ```
pub fn described(device: &Device) -> String {
    let processor = machine().0;
    let processor = processor.as_deref().unwrap_or("an unknown processor");
    let threads = get_num_threads();
    let plural = if threads == 1 { "" } else { "s" };
    let gpu = match device {
        Device::Cpu => String::new(),
        _ => format!(", {}", name(device, gpu(device).as_ref())),
    };
    format!("{processor}, {threads} thread{plural}{gpu}")
}

fn name(device: &Device, gpu: Option<&(String, u64)>) -> String {
    match (device.location(), gpu) {
        (DeviceLocation::Cuda { .. }, Some((name, _))) => format!("{name} (CUDA)"),
        (DeviceLocation::Cpu, _) => "CPU".to_owned(),
        (DeviceLocation::Cuda { gpu_id }, None) => format!("CUDA GPU {gpu_id}"),
        (DeviceLocation::Metal { gpu_id }, _) => format!("Metal GPU {gpu_id}"),
    }
}

/// The name of a CUDA device and its memory in bytes.
fn gpu(device: &Device) -> Option<(String, u64)> {
    #[cfg(feature = "cuda")]
    return cuda::about(device);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        None
    }
}

/// The processor's name and the main memory in bytes, where the system reports them.
///
/// Written by hand, because the usual library makes cargo download 110 MB of another system's bindings for every user.
fn machine() -> (Option<String>, Option<u64>) {
    if cfg!(target_os = "macos") {
        let ask = |name| {
            let out = Command::new("sysctl").args(["-n", name]).output().ok()?;
            Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
        };
        let memory = ask("hw.memsize").and_then(|bytes| bytes.parse().ok());
        return (ask("machdep.cpu.brand_string"), memory);
    }
    let read = |file: &str, field: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(field))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kib = read("/proc/meminfo", "MemTotal");
    let kib = kib.and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok());
    (read("/proc/cpuinfo", "model name"), kib.map(|kib| kib << 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setup_names_everything() {
        let setup = Setup::new(7);
        let text = setup.to_string();
        for name in ["device ", "processor ", "threads ", "memory ", "candle 0.", "rustc 1.", "seed       7"] {
            assert!(text.contains(name), "{name} is not in\n{text}");
        }
        if cfg!(target_os = "linux") {
            assert!(setup.memory.is_some_and(|bytes| bytes > 100 << 20), "{text}");
        }
    }

    #[test]
    fn the_best_device_computes() -> candle_core::Result<()> {
        let two = candle_core::Tensor::new(1f32, &best())?.affine(1.0, 1.0)?;
        assert_eq!(two.to_scalar::<f32>()?, 2.0);
        Ok(())
    }
}
