//! `diffusion inpaint`, `upscale` and `vary`: new images from given ones.

use crate::request::{ModelOptions, Request, Usual, counted};
use crate::sample::{SamplerOptions, check_steps, prepare, write_npy};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use diffusion_core::candle::{DType, Device, Result as TensorResult, Tensor};
use diffusion_core::data::{Fit, read_image, write_image};
use diffusion_core::edit::{Filter, Inpaint, Mask, Side, enlarge, image_to_image_states};
use diffusion_core::progress::Progress;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::{Sampler, State, Steps};
use diffusion_core::show::Grid;
use diffusion_core::unet::Condition;
use std::fs;
use std::path::{Path, PathBuf};

/// The largest number of images that are made at once.
const MOST: usize = 256;
/// The fraction of pixels that --mask random and strokes leave unknown if --unknown does not say.
const UNKNOWN: f64 = 0.5;
/// Small images are enlarged in the picture, up to about this height in pixels.
const SHOWN_SIDE: usize = 84;

/// The images, and where the results go.
#[derive(Args)]
struct Files {
    /// An image: PNG, JPEG, BMP, GIF or WebP. Repeat the option for several
    #[arg(long, required = true)]
    image: Vec<PathBuf>,
    /// How an image with other proportions than the model's is brought to its size
    #[arg(long, value_enum, default_value_t = Way::Crop)]
    fit: Way,
    /// How many results to make of each image
    #[arg(long, default_value_t = 1)]
    n: usize,
    /// The picture: what was given above, the results below
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also writes each result into this folder, pixel by pixel, as a PNG named after its image
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Also writes the results for NumPy, as float32 (N, C, H, W) in −1 … 1, those of each image one after the other
    #[arg(long)]
    npy: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Way {
    /// The largest part around the centre
    Crop,
    /// The whole image, with white at two sides
    Pad,
    /// The whole image with changed proportions
    Stretch,
}

impl Way {
    pub fn fit(self) -> Fit {
        match self {
            Self::Crop => Fit::Crop,
            Self::Pad => Fit::Pad,
            Self::Stretch => Fit::Stretch,
        }
    }
}

impl Files {
    fn out(&self, usual: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| usual.into())
    }

    /// Checks the numbers, and creates the folders of the output.
    fn prepare(&self, usual: &str) -> Result<()> {
        ensure!(self.n > 0, "--n 0: it must be at least 1");
        let total = self.image.len().saturating_mul(self.n);
        ensure!(total <= MOST, "--n {}: that makes {total} images, and at most {MOST} are made at once", self.n);
        prepare(&self.out(usual), "png")?;
        self.npy.as_ref().map_or(Ok(()), |path| prepare(path, "npy"))?;
        self.folder.as_ref().map_or(Ok(()), |folder| {
            fs::create_dir_all(folder).with_context(|| format!("--folder: cannot create {}", folder.display()))
        })
    }

    /// The number of results.
    fn total(&self) -> usize {
        self.image.len() * self.n
    }

    /// Reads the images in this shape: (N, C, H, W).
    fn read(&self, shape: [usize; 3]) -> Result<Tensor> {
        let images = self.image.iter().map(|path| read_image(path, shape, self.fit.fit()).context("--image"));
        Ok(Tensor::cat(&images.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// Each image as often as results are made of it.
    fn repeated(&self, images: &Tensor) -> TensorResult<Tensor> {
        let rows = (0..self.total()).map(|i| (i / self.n) as u32);
        images.index_select(&Tensor::from_iter(rows, images.device())?, 0)
    }

    /// Writes everything that was asked for. `given` are rows of the picture with their titles.
    fn write(&self, usual: &str, given: &[(&str, Tensor)], results: &Tensor) -> Result<()> {
        let results = results.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.clamp(-1f64, 1f64)?;
        if let Some(path) = &self.npy {
            write_npy(&results, path)?;
            println!("{}", path.display());
        }
        if let Some(folder) = &self.folder {
            for (i, name) in names(&self.image, self.n).into_iter().enumerate() {
                let path = folder.join(name);
                write_image(&results.narrow(0, i, 1)?, &path)?;
                println!("{}", path.display());
            }
        }
        let mut rows: Vec<Tensor> = given.iter().map(|(_, row)| row.clone()).collect();
        let mut titles: Vec<String> = given.iter().map(|(title, _)| (*title).to_owned()).collect();
        for j in 0..self.n {
            let of_row = (0..self.image.len()).map(|i| (i * self.n + j) as u32);
            rows.push(results.index_select(&Tensor::from_iter(of_row, &Device::Cpu)?, 0)?);
            titles.push(if self.n == 1 { "result".to_owned() } else { format!("result {}", j + 1) });
        }
        let out = self.out(usual);
        let scale = (SHOWN_SIDE / results.dim(2)?).clamp(1, 4);
        Grid::rows(&rows)?.row_titles(titles).scale(scale).save(&out)?;
        println!("{}", out.display());
        Ok(())
    }
}

/// A file name for each result: that of its image, with a number where several would have the same.
fn names(images: &[PathBuf], n: usize) -> Vec<String> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut names: Vec<String> = Vec::new();
    for path in images {
        for _ in 0..n {
            let stem = stem(path);
            let numbered = (2..).map(|i| format!("{stem}-{i}.png"));
            let mut candidates = std::iter::once(format!("{stem}.png")).chain(numbered);
            names.extend(candidates.find(|name| !names.contains(name)));
        }
    }
    names
}

/// Loads a model that needs no low-resolution image, and the images in its shape.
fn load(files: &Files, options: &ModelOptions) -> Result<(Request, Tensor)> {
    let model = options.open()?;
    let low_res = model.network.architecture().low_res();
    ensure!(
        low_res == 0,
        "--checkpoint: this super-resolution model enlarges images ×{low_res}; `diffusion upscale` uses it"
    );
    let request = options.request(model, files.total(), Usual::NoCondition)?;
    ensure!(
        !request.model.info.consistency,
        "--checkpoint: a consistency model jumps to the clean image and has no steps in between that could be changed; use the \
         model it was trained from"
    );
    let images = files.read(request.model.image_shape())?;
    Ok((request, images))
}

/// The last images of the steps.
fn last(steps: impl ExactSizeIterator<Item = TensorResult<State>>, what: &str) -> Result<Tensor> {
    let mut last = None;
    for state in Progress::wrap(steps, what) {
        last = Some(state?.xs);
    }
    last.context("there were no steps")
}

#[derive(Args)]
pub struct Inpainting {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    files: Files,
    /// What is unknown: box (the centre), half (the lower one), stripes, random, strokes, or a picture that is dark there
    #[arg(long)]
    mask: String,
    /// The fraction of pixels that --mask random and strokes leave unknown [default: 0.5]
    #[arg(long)]
    unknown: Option<f64>,
    /// Fills the known part instead
    #[arg(long)]
    invert: bool,
    /// The number of steps
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// How often each group of steps is taken: more makes the parts fit together better, and takes as much longer
    #[arg(long, default_value_t = Inpaint::default().resamplings)]
    resamplings: usize,
    /// The number of steps in a group
    #[arg(long, default_value_t = Inpaint::default().jump)]
    jump: usize,
}

impl Inpainting {
    fn mask(&self, [_, height, width]: [usize; 3]) -> Result<Mask> {
        let random = ["random", "strokes"].contains(&&self.mask[..]);
        ensure!(self.unknown.is_none() || random, "--unknown is for --mask random and strokes only");
        let unknown = self.unknown.unwrap_or(UNKNOWN);
        ensure!(
            unknown > 0.0 && unknown < 1.0,
            "--unknown {unknown}: it is a fraction of the pixels and must be between 0 and 1"
        );
        let mut rng = Rng::new(self.model.seed).split();
        let mask = match &self.mask[..] {
            "box" => Mask::rectangle(height, width, height / 4..height - height / 4, width / 4..width - width / 4),
            "half" => Mask::half(height, width, Side::Top),
            "stripes" => Mask::stripes(height, width, (height / 8).max(1)),
            "random" => Mask::random(height, width, unknown, &mut rng),
            "strokes" => Mask::strokes(height, width, unknown, &mut rng),
            file if Path::new(file).is_file() => Mask::from_file(file, height, width),
            other => bail!("--mask {other}: it is neither box, half, stripes, random or strokes nor an existing file"),
        };
        let mask = mask.with_context(|| format!("--mask {}", self.mask))?;
        let mask = if self.invert { mask.inverted() } else { mask };
        let known = mask.known_share();
        ensure!(
            known < 1.0,
            "--mask {}: every pixel is known, so there is nothing to fill; dark pixels are unknown",
            self.mask
        );
        Ok(mask)
    }
}

pub fn inpaint(options: &Inpainting) -> Result<()> {
    let usual = "inpainted.png";
    let Inpainting { files, model, steps, resamplings, jump, .. } = options;
    files.prepare(usual)?;
    ensure!(*resamplings > 0, "--resamplings 0: it must be at least 1");
    ensure!(*jump > 0, "--jump 0: it must be at least 1");
    let (request, images) = load(files, model)?;
    ensure!(
        request.model.autoencoder.is_none(),
        "--checkpoint: this model works on latents, in which single pixels cannot be kept; use a model of pixels, or `diffusion vary`"
    );
    check_steps("--steps", *steps, &request.model.info.process)?;
    let mask = options.mask(request.model.info.shape)?;
    println!(
        "{}, {}, {:.0} % of the pixels unknown, {} in groups of {jump}, each taken {}, seed {}",
        counted(files.total(), "image"),
        request.words,
        100.0 * (1.0 - mask.known_share()),
        counted(*steps, "step"),
        counted(*resamplings, "time"),
        model.seed
    );
    let sampler = Sampler { steps: Steps::Trailing(*steps), ..Sampler::ddpm() };
    let inpaint = Inpaint { sampler, resamplings: *resamplings, jump: *jump };
    let (x0, mut rng) = (files.repeated(&images)?, Rng::new(model.seed));
    let states = inpaint.states(&request.model, &x0, &mask, &request.guidance, &mut rng)?;
    let results = last(states, "inpainting")?;
    files.write(usual, &[("image", images.clone()), ("known", mask.erase(&images, 0.0)?)], &results)
}

#[derive(Args)]
pub struct Upscaling {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    sampling: SamplerOptions,
}

pub fn upscale(options: &Upscaling) -> Result<()> {
    let usual = "upscaled.png";
    let Upscaling { files, model, sampling } = options;
    files.prepare(usual)?;
    sampling.check()?;
    let opened = model.open()?;
    let factor = opened.network.architecture().low_res();
    ensure!(
        factor > 0,
        "--checkpoint: this model samples from noise and enlarges nothing; weights/mnist-x4.safetensors and sprites-x2.safetensors do"
    );
    let [channels, height, width] = opened.info.shape;
    let small = files.read([channels, height / factor, width / factor])?;
    let mut request = model.request(opened, files.total(), Usual::NoCondition)?;
    let low_res = files.repeated(&small)?.to_device(request.model.network.device())?;
    // With --guidance only the class is left out on the other side, not the image.
    let guidance = &mut request.guidance;
    for condition in guidance.towards.iter_mut().map(|(_, condition)| condition).chain([&mut guidance.away]) {
        *condition = condition.clone().and(Condition::low_res(low_res.clone()));
    }
    let (sampler, steps) = sampling.sampler(&request.model.info)?;
    println!(
        "{} from {}×{} to {height}×{width} pixels, {}, {}, seed {}",
        counted(files.total(), "image"),
        height / factor,
        width / factor,
        sampling.words(&request.model.info),
        counted(steps, "step"),
        model.seed
    );
    let mut rng = Rng::new(model.seed);
    let noise = request.model.noise(request.n, &mut rng)?;
    let results = last(request.model.states(&noise, &request.guidance, &sampler, &mut rng)?, "enlarging")?;
    let given =
        [("image", enlarge(&small, factor, Filter::Nearest)?), ("bicubic", enlarge(&small, factor, Filter::Bicubic)?)];
    files.write(usual, &given, &results)
}

#[derive(Args)]
pub struct Varying {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    sampling: SamplerOptions,
    /// The fraction of the steps that are taken: 0.3 retouches, 0.6 keeps the outline, 1 keeps almost nothing
    #[arg(long, default_value_t = 0.6)]
    strength: f64,
}

pub fn vary(options: &Varying) -> Result<()> {
    let usual = "varied.png";
    let Varying { files, model, sampling, strength } = options;
    files.prepare(usual)?;
    sampling.check()?;
    ensure!(
        *strength > 0.0 && *strength <= 1.0,
        "--strength {strength}: it is a fraction of the steps and must be above 0 and at most 1"
    );
    let (request, images) = load(files, model)?;
    let (sampler, steps) = sampling.sampler(&request.model.info)?;
    let (x0, mut rng) = (request.model.latents(&files.repeated(&images)?)?, Rng::new(model.seed));
    let states = image_to_image_states(&request.model, &x0, *strength, &request.guidance, &sampler, &mut rng)?;
    println!(
        "{}, {}, {}, {} of {}, seed {}",
        counted(files.total(), "image"),
        request.words,
        sampling.words(&request.model.info),
        states.len(),
        counted(steps, "step"),
        model.seed
    );
    let results = request.model.decode(&last(states, "sampling")?)?;
    files.write(usual, &[("image", images)], &results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_has_a_name_of_its_own() {
        let images = ["a/cat.jpg", "b/cat.png", "dog.png"].map(PathBuf::from);
        assert_eq!(names(&images, 1), ["cat.png", "cat-2.png", "dog.png"]);
        assert_eq!(names(&images[1..], 2), ["cat.png", "cat-2.png", "dog.png", "dog-2.png"]);
    }
}
