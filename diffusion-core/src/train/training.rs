//! The training loop, as an iterator of its steps.

use super::folder::{self, Resumed, RunFolder};
use super::noise::Noise;
#[cfg(feature = "cuda")]
use super::on_device::OnDevice;
use super::progress::Report;
use super::times::{on_grid, stride};
use super::{AdamW, Ema, TrainingConfig, clip_grad_norm};
use crate::config::{RunConfig, Told};
use crate::data::{Dataset, Source};
use crate::device::{out_of_memory, too_little};
use crate::diffusion::q_sample;
use crate::model::{Model, ModelInfo};
use crate::nn::Contents;
use crate::ops::avg_pool2d;
use crate::rng::Rng;
use crate::sampler::Sampler;
use crate::schedule::Schedule;
use crate::show::{LiveState, Phase, thin};
use crate::unet::{Architecture, Condition, Network};
use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Streams of random numbers: the steps have those from 1 on, the orders of the epochs those from here on, and the samples
/// the last.
const ORDERS: u64 = 1 << 63;
const SAMPLES: u64 = u64::MAX;

/// How often the live page is told, over how many of the last steps what it shows is averaged, and the points of its curves.
const TELL: Duration = Duration::from_millis(500);
const RECENT: usize = 50;
const CURVE: usize = 400;

/// After how many steps at the latest a CUDA device is asked how they went.
#[cfg(feature = "cuda")]
const AHEAD: usize = 10;

/// Under this name a checkpoint says where the training was.
const METADATA: &str = "training";

/// One step of the optimiser: what [`Training`] yields, and a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Which step this was, from 0.
    pub index: usize,
    /// The epoch it belongs to, from 0.
    pub epoch: usize,
    /// The loss of its batch, before the step.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// The norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Images per second in this step.
    pub images_per_second: f64,
    /// Seconds of training up to here, earlier sessions included.
    pub seconds: f64,
}

/// Why a training is not going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is, or can be.
    Running,
    /// All steps are done.
    Done,
    /// It was asked to stop.
    Stopped,
    /// A step or a file failed.
    Failed,
}

/// What a checkpoint says of the training besides its tensors.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    steps_done: usize,
    seconds: f64,
    data: String,
}

/// The training of a network on a data set: an iterator of [`Step`]s, so that what is watched is the reader's business.
///
/// Each step draws its images, time steps, noise and dropped conditions from a random stream of its own, which follows from
/// the seed and the number of the step. So a training that is taken up again goes on to the bit as if it had never stopped.
///
/// In a folder ([`Training::in_folder`]) it keeps `config.toml`, `log.jsonl` with a line for each step, `samples`,
/// `checkpoints`, and in the end `model.safetensors`: the averaged weights, which [`Model::load`](crate::model::Model::load) reads.
///
/// ```
/// use diffusion_core::{candle::Device, data::Dataset, train::{Training, TrainingConfig}, unet::SimpleUNet};
/// let sprites = Dataset::sprites(64, 1)?;
/// let net = SimpleUNet { channels: 3, base: 8, ..Default::default() };
/// let config = TrainingConfig { epochs: 2, batch: 16, sample_every: 0, ..Default::default() };
/// let mut training = Training::new(config, net, &sprites, &Device::Cpu)?;
/// for step in &mut training {
///     assert!(step?.loss.is_finite());
/// }
/// assert_eq!(training.history().len(), 2 * 4);
/// let model = training.into_model()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Training {
    config: TrainingConfig,
    schedule: Schedule,
    data: Dataset,
    fingerprint: String,
    source: Option<Source>,
    model: Model,
    params: BTreeMap<String, Var>,
    adam: AdamW,
    ema: Option<Ema>,
    rng: Rng,
    total: usize,
    done: usize,
    /// The order of an epoch's images.
    order: Option<(usize, Vec<usize>)>,
    history: Vec<Step>,
    seconds: f64,
    folder: Option<RunFolder>,
    resumed: Option<Resumed>,
    stop: Arc<AtomicBool>,
    state: State,
    /// When the live page was last told.
    told: Option<Instant>,
    deadline: Option<Instant>,
    /// Steps that are taken but not given out: a CUDA device takes several before it is asked how they went.
    ahead: VecDeque<Step>,
    /// What ended it, to be given out after them.
    failed: Option<anyhow::Error>,
    #[cfg(feature = "cuda")]
    on_device: Option<OnDevice>,
}

impl Training {
    /// A training that has not begun.
    ///
    /// # Errors
    /// A value of `config` or of the architecture is out of its range; the images are not what the network takes, or fewer
    /// than a batch; or the network knows another number of classes than the data has.
    pub fn new(
        config: TrainingConfig,
        architecture: impl Into<Architecture>,
        data: &Dataset,
        device: &Device,
    ) -> Result<Self> {
        config.check()?;
        let architecture = architecture.into();
        let ([channels, height, width], classes) = (data.shape(), data.class_names().len());
        ensure!(
            channels == architecture.channels(),
            "the network is for images of {} channels, and {} has {channels}: set channels = {channels}",
            architecture.channels(),
            data.name()
        );
        for (field, known) in [
            ("classes", architecture.classes()),
            ("context", architecture.context()),
        ] {
            ensure!(
                known == 0 || known == classes,
                "the network has {field} = {known}, and {} has {classes} classes: set {field} = {classes}, or 0 for none",
                data.name()
            );
        }
        architecture.check_size(height, width)?;
        if let Some(known) = architecture.time_steps() {
            ensure!(
                known == config.steps,
                "the network divides the time by its steps = {known}, and the training has steps = {}: set both to the same",
                config.steps
            );
        }
        let images = config.batch.saturating_mul(config.accumulate);
        ensure!(
            images <= data.len(),
            "a step takes batch × accumulate = {images} images, and {} has {}: use fewer",
            data.name(),
            data.len()
        );
        let rng = Rng::new(config.seed);
        let mut network = Network::new(architecture, &mut rng.clone(), device)?;
        network.set_precision(config.precision);
        let params = network.params().by_name();
        let info = ModelInfo {
            process: config.schedule()?.into(),
            prediction: config.param,
            classes: data.class_names().to_vec(),
            data: data.name().to_owned(),
            ..ModelInfo::new(data.shape())
        };
        // Buffers too: running means belong to the weights they were measured with.
        let averaged = network.params().all();
        let averaged = averaged
            .map(|(n, v)| (n.to_owned(), v.clone()))
            .collect::<BTreeMap<_, _>>();
        let adam = AdamW::new(&params, config.adam())?;
        let ema = (config.ema > 0.0)
            .then(|| Ema::new(&averaged, config.ema()))
            .transpose()?;
        Ok(Self {
            #[cfg(feature = "cuda")]
            on_device: device
                .is_cuda()
                .then(|| OnDevice::new(data, &adam, ema.as_ref(), device))
                .transpose()?,
            schedule: config.schedule()?,
            data: data.clone(),
            fingerprint: data.fingerprint(),
            source: None,
            adam,
            ema,
            params,
            model: Model { network, info },
            rng,
            total: config.total_steps(data.len()),
            done: 0,
            order: None,
            history: Vec::new(),
            seconds: 0.0,
            folder: None,
            resumed: None,
            stop: Arc::default(),
            state: State::Running,
            told: None,
            deadline: None,
            ahead: VecDeque::new(),
            failed: None,
            config,
        })
    }

    /// Where the data came from, to be written into `config.toml`; before [`Training::in_folder`].
    pub fn source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// Keeps everything in a folder, and goes on from its newest whole checkpoint if it has one.
    ///
    /// # Errors
    /// The folder holds the run of another configuration or other data, or cannot be written.
    pub fn in_folder(mut self, folder: impl AsRef<Path>) -> Result<Self> {
        let run = RunConfig {
            data: self.source.clone().unwrap_or_default(),
            condition: match self.model.network.architecture() {
                it if it.classes() > 0 => Told::Classes,
                it if it.context() > 0 => Told::Context,
                _ => Told::Nothing,
            },
            network: self.model.network.architecture().clone(),
            training: self.config.clone(),
        };
        let device = self.model.network.device();
        let mut folder = RunFolder::open(folder.as_ref(), &run, self.source.is_some(), device)?;
        self.resumed = folder.newest(|file| self.load(file))?;
        self.history = folder.history(self.done)?;
        self.folder = Some(folder);
        Ok(self)
    }

    /// This training as it was after `steps` steps, from a checkpoint in the folder of its run; the folder stays as it is.
    ///
    /// # Errors
    /// There is no such checkpoint, or it is of another training.
    pub fn at_checkpoint(mut self, folder: impl AsRef<Path>, steps: usize) -> Result<Self> {
        let path = folder::checkpoint(folder.as_ref(), steps);
        Contents::load(&path)
            .and_then(|file| self.load(&file))
            .with_context(|| format!("cannot go back to {}", path.display()))
            .map_err(crate::whole)?;
        Ok(self)
    }

    /// After how many steps the folder of a run has checkpoints for [`Training::at_checkpoint`], in order; none where there is
    /// no such folder.
    pub fn checkpoints(folder: impl AsRef<Path>) -> Vec<usize> {
        folder::steps_of_checkpoints(folder.as_ref())
    }

    /// From where it goes on, and what could not be used; `None` if it begins.
    pub fn resumed(&self) -> Option<&Resumed> {
        self.resumed.as_ref()
    }

    /// The numbers it was made with.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// The folder it keeps.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(RunFolder::path)
    }

    /// The data it learns from.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The network as it is now, with the weights of the last step.
    pub fn network(&self) -> &Network {
        &self.model.network
    }

    /// All steps so far, those before a break included.
    pub fn history(&self) -> &[Step] {
        &self.history
    }

    /// How many steps there are to be in all.
    pub fn total_steps(&self) -> usize {
        self.total
    }

    /// How many steps make an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.config.steps_per_epoch(self.data.len())
    }

    /// Whether it is going on, and why not.
    pub fn state(&self) -> State {
        self.state
    }

    /// Set this to true, from another thread say, to stop before the next step, with a checkpoint.
    pub fn stopper(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Ends the training so that all of it takes `limit` from now on, as far as that can be known: how many steps there are
    /// to be is estimated anew as it goes on, and the learning rate's decay with it. So its steps depend on the machine; at
    /// most there are those of all epochs.
    pub fn end_within(&mut self, limit: Duration) {
        // A time too far to be told is none.
        self.deadline = Instant::now().checked_add(limit);
    }

    /// When it ends, if that was decided: [`Training::end_within`].
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How many steps fit into the time that is left.
    fn estimate(&mut self) {
        let Some(deadline) = self.deadline else {
            return;
        };
        let recent = &self.history[self.history.len().saturating_sub(RECENT)..];
        if recent.is_empty() {
            return;
        }
        let each = recent.iter().map(step_seconds(&self.config)).sum::<f64>() / recent.len() as f64;
        let left = deadline.saturating_duration_since(Instant::now());
        // A little is kept for the last checkpoint and the model.
        let steps = (0.99 * left.as_secs_f64() / each) as usize;
        let all = self.config.total_steps(self.data.len());
        self.total = self.done.saturating_add(steps).min(all);
    }

    /// Images made with the averaged weights: `n` of them, of all classes in turn, or after the reduced first images of the data,
    /// always from the same noise.
    ///
    /// # Shapes
    /// (n, C, H, W), nominally in \[−1, 1\].
    ///
    /// # Errors
    /// `n` = 0, or there is no memory.
    pub fn samples(&mut self, n: usize) -> Result<Tensor> {
        let condition = match self.model.network.architecture().reduced() {
            0 => self.model.conditions(n)?,
            _ => {
                let first: Vec<usize> = (0..n).map(|i| i % self.data.len()).collect();
                self.told(&first, &vec![false; n])?
            }
        };
        let mut rng = self.rng.fork(SAMPLES);
        let sampler = Sampler::ddim(self.config.sample_steps.min(self.config.steps));
        self.averaged(|model| model.sample(n, &condition, &sampler, &mut rng))?
    }

    /// What `with` makes of the model with the averaged weights in the place of its own.
    ///
    /// # Errors
    /// There is no memory to set its own aside.
    pub fn averaged<R>(&mut self, with: impl FnOnce(&Model) -> R) -> Result<R> {
        let Self { ema, model, .. } = self;
        Ok(match ema {
            Some(ema) => ema.averaged(|| with(model))?,
            None => with(model),
        })
    }

    /// The model with the averaged weights for good.
    ///
    /// # Errors
    /// There is no memory.
    pub fn into_model(mut self) -> Result<Model> {
        self.model.info.images_seen = self.images_seen();
        if let Some(ema) = &mut self.ema {
            ema.apply()?;
        }
        Ok(self.model)
    }

    /// Goes through all steps, saying how far it is; returns how it ended.
    ///
    /// # Errors
    /// A step failed, or a file could not be written.
    pub fn run(&mut self) -> Result<Report> {
        super::progress::run(self)
    }

    fn images_seen(&self) -> u64 {
        (self.done * self.config.batch * self.config.accumulate) as u64
    }

    /// What these images show, without what is kept from the network.
    fn told(&self, images: &[usize], drop: &[bool]) -> Result<Condition> {
        let architecture = self.model.network.architecture();
        let condition = if architecture.classes() > 0 {
            Condition::labels(images.iter().map(|i| self.data.labels()[*i] as usize))
        } else if architecture.context() > 0 {
            let device = self.model.network.device();
            Condition::Context(self.data.context(images.iter().copied(), device)?)
        } else if architecture.reduced() > 0 {
            let x0 = self.batch(images)?;
            Condition::Reduced(avg_pool2d(&x0, architecture.reduced())?)
        } else {
            Condition::None
        };
        Ok(condition.dropped(drop)?)
    }

    /// The images with these indices: from the device's own memory, where they are there.
    fn batch(&self, images: &[usize]) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(resident) = self.on_device.as_ref().and_then(|it| it.images.as_ref()) {
            return Ok(resident.images(images)?);
        }
        let device = self.model.network.device();
        self.data.images(images.iter().copied(), device)
    }

    /// The images of step `index`.
    fn images(&mut self, index: usize) -> Vec<usize> {
        let per_epoch = self.steps_per_epoch();
        let (epoch, step) = (index / per_epoch, index % per_epoch);
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let mut rng = self.rng.fork(ORDERS + epoch as u64);
            self.order = Some((epoch, rng.permutation(self.data.len())));
        }
        let order = self.order.as_ref().map_or(&[][..], |(_, order)| order);
        let size = self.config.batch * self.config.accumulate;
        order[step * size..(step + 1) * size].to_vec()
    }

    /// The time steps of step `index`.
    fn times(&self, index: usize, rng: &mut Rng) -> Result<Vec<usize>> {
        let config = &self.config;
        let part = if config.stages > 1 { 0.5 } else { 0.0 };
        let done = index as f64 / self.total.max(1) as f64;
        let stride = stride(config.stages, part, done, config.steps);
        let n = config.batch * config.accumulate;
        let t = config.times.draw(n, config.steps, rng)?;
        let onto = |t: &usize| on_grid(*t, stride, config.steps);
        Ok(t.iter().map(onto).collect())
    }

    /// The loss of one batch, as a tensor of one number.
    fn loss(
        &self,
        images: &[usize],
        t: &[usize],
        drop: &[bool],
        noise: &mut Noise,
    ) -> Result<Tensor> {
        let (config, device) = (&self.config, self.model.network.device());
        let x0 = self.batch(images)?;
        let eps = noise.randn_like(&x0)?;
        let xt = q_sample(&self.schedule, &x0, t, &eps)?;
        let target = config.param.target(&x0, &eps, &self.schedule.levels(t)?)?;
        let condition = self.told(images, drop)?;
        let answer = self.model.network.forward(&xt, t, &condition)?;
        let each = config.loss.per_image(&answer, &target)?;
        let weight = |t: &usize| config.weighting.at(&self.schedule, config.param, *t) as f32;
        let weights: Vec<f32> = t.iter().map(weight).collect();
        Ok((each * Tensor::from_vec(weights, t.len(), device)?)?.mean_all()?)
    }

    /// The losses of the batches of step `index`, and the sum of their gradients.
    fn gradients(&mut self, index: usize) -> Result<(Vec<Tensor>, GradStore)> {
        // Drawn for all images of the step together, so that small batches see what one large one would.
        let mut rng = self.rng.fork(index as u64 + 1);
        let images = self.images(index);
        let t = self.times(index, &mut rng)?;
        let drop: Vec<bool> = t.iter().map(|_| rng.uniform() < self.config.drop).collect();
        let mut noise = Noise::new(rng, self.model.network.device())?;
        let (size, mut losses, mut all) = (self.config.batch, Vec::new(), GradStore::default());
        for from in (0..images.len()).step_by(size) {
            let part = from..from + size;
            let loss = self.loss(
                &images[part.clone()],
                &t[part.clone()],
                &drop[part],
                &mut noise,
            )?;
            let grads = loss.backward()?;
            losses.push(loss.detach());
            if images.len() == size {
                all = grads;
                break;
            }
            for var in self.params.values() {
                if let Some(grad) = grads.get(var) {
                    let so_far = all
                        .get(var)
                        .map_or_else(|| Ok(grad.clone()), |x| x + grad)?;
                    all.insert(var, so_far.detach());
                }
            }
        }
        Ok((losses, all))
    }

    fn not_finite(&self, what: &str, index: usize, value: f64) -> String {
        let left = match self.folder.as_ref().and_then(RunFolder::last_saved) {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".to_owned(),
        };
        format!(
            "training: the {what} of step {index} is {value}. Most often the learning rate is too high (lr = {:e}: try a tenth, or \
             warmup = 500), or gradients are not clipped (clip = {}); else a pixel or a condition is not a number. The step was \
             not taken; {left}.",
            self.config.lr, self.config.clip
        )
    }

    /// What can be done about it, if the device's memory is full.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(name) = out_of_memory(error.as_ref()) else {
            return error;
        };
        let TrainingConfig {
            batch, accumulate, ..
        } = self.config;
        let wanted = format!("training with batch = {batch}");
        // The product must stay, and with it every step.
        let advice = match (2..=batch).find(|by| batch.is_multiple_of(*by)) {
            Some(by) => format!(
                "batch = {} with accumulate = {} makes the same steps with less memory",
                batch / by,
                accumulate * by
            ),
            None => "a smaller network or smaller images might fit".to_owned(),
        };
        anyhow::anyhow!("training: {}", too_little(name, &wanted, &advice))
    }

    fn step(&mut self) -> Result<Step> {
        let (index, began) = (self.done, Instant::now());
        let (losses, grads) = self.gradients(index)?;
        let batches = self.config.accumulate;
        let share = 1.0 / batches as f64;
        let mut loss = 0.0;
        for batch in &losses {
            loss += f64::from(batch.to_scalar::<f32>()?);
        }
        loss /= batches as f64;
        if !loss.is_finite() {
            bail!(self.not_finite("loss", index, loss))
        }
        // The gradients are sums over the batches; their mean is what is clipped.
        let clip = clip_grad_norm(&self.params, &grads, self.config.clip / share)?;
        if !clip.norm.is_finite() {
            bail!(self.not_finite("gradient's norm", index, clip.norm))
        }
        let lr = self.rate(index);
        self.adam.set_lr(lr)?;
        self.adam.step_scaled(&grads, clip.scale * share)?;
        if let Some(ema) = &mut self.ema {
            ema.update()?;
        }
        Ok(self.taken(
            index,
            (loss, clip.norm * share, lr),
            began.elapsed().as_secs_f64(),
        ))
    }

    /// The learning rate of step `index`.
    fn rate(&self, index: usize) -> f64 {
        let config = &self.config;
        config.lr * config.decay.share(index, self.total, config.warmup)
    }

    /// Enters a step that was taken, with its loss, norm and learning rate, in `seconds`.
    fn taken(
        &mut self,
        index: usize,
        (loss, grad_norm, lr): (f64, f64, f64),
        seconds: f64,
    ) -> Step {
        self.seconds += seconds;
        self.done = index + 1;
        let images = (self.config.batch * self.config.accumulate) as f64;
        let step = Step {
            index,
            epoch: index / self.steps_per_epoch(),
            loss,
            lr,
            grad_norm,
            images_per_second: images / seconds.max(1e-9),
            seconds: self.seconds,
        };
        self.history.push(step);
        step
    }

    /// The next step; on a CUDA device the next few, so that it need not wait for the host after each.
    fn steps(&mut self) -> Result<Vec<Step>> {
        #[cfg(feature = "cuda")]
        if let Some(mut on_device) = self.on_device.take() {
            let steps = self.steps_ahead(&mut on_device);
            if steps.is_err() {
                on_device.reset(self.model.network.device())?;
            }
            self.on_device = Some(on_device);
            return steps;
        }
        Ok(vec![self.step()?])
    }

    /// Steps up to where something else is due, at most [`AHEAD`]. The device is asked once how they went.
    #[cfg(feature = "cuda")]
    fn steps_ahead(&mut self, on_device: &mut OnDevice) -> Result<Vec<Step>> {
        let (first, began) = (self.done, Instant::now());
        let every = match self.config.checkpoint_every {
            0 => usize::MAX,
            every => every - first % every,
        };
        let per_epoch = self.steps_per_epoch();
        let count = AHEAD
            .min(per_epoch - first % per_epoch)
            .min(every)
            .min(self.total - first);
        let share = 1.0 / self.config.accumulate as f64;
        for index in first..first + count {
            let (losses, grads) = self.gradients(index)?;
            let loss = match losses.as_slice() {
                [loss] => loss.clone(),
                _ => Tensor::stack(&losses, 0)?.mean(0)?,
            };
            let lr = self.rate(index);
            self.adam.set_lr(lr)?;
            let (clip, ema) = (self.config.clip, self.ema.as_mut());
            on_device.step(&mut self.adam, ema, &grads, loss, clip, (share, index + 1))?;
        }
        let told = on_device.told()?;
        let seconds = began.elapsed().as_secs_f64() / count as f64;
        let mut steps = Vec::with_capacity(count);
        for (i, it) in told.iter().enumerate() {
            let (index, norm) = (first + i, it.norm * share);
            if !it.taken {
                // Those after it have not been taken either.
                self.adam.uncount(told.len() - i);
                if let Some(ema) = &mut self.ema {
                    ema.uncount(told.len() - i);
                }
                self.with_folder(|folder| steps.iter().try_for_each(|step| folder.log(step)))?;
                self.ahead.extend(steps);
                if !it.loss.is_finite() {
                    bail!(self.not_finite("loss", index, it.loss))
                }
                bail!(self.not_finite("gradient's norm", index, norm))
            }
            let lr = self.rate(index);
            steps.push(self.taken(index, (it.loss, norm, lr), seconds));
        }
        Ok(steps)
    }

    /// What follows steps: the log, the checkpoint, the samples, and the end.
    fn keep(&mut self, steps: &[Step]) -> Result<()> {
        let (end, per_epoch) = (self.done >= self.total, self.steps_per_epoch());
        let epoch_ends = self.done.is_multiple_of(per_epoch);
        if self.folder.is_none() {
            return Ok(());
        }
        let epochs = self.done / per_epoch;
        let wanted = self.config.sample_every;
        if wanted > 0 && (end || epoch_ends && epochs.is_multiple_of(wanted)) {
            let n = self.config.samples;
            let sheet = self.samples(n).with_context(|| format!("samples = {n}"))?;
            let columns = self.sheet_columns();
            self.with_folder(|folder| folder.save_samples(epochs, &sheet, columns))?;
        }
        let due = match self.config.checkpoint_every {
            0 => epoch_ends,
            every => self.done.is_multiple_of(every),
        };
        self.with_folder(|folder| steps.iter().try_for_each(|step| folder.log(step)))?;
        if end {
            self.finish(State::Done)?;
        } else if due {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// One for each class, so that each has a column of its own.
    fn sheet_columns(&self) -> usize {
        let architecture = self.model.network.architecture();
        match architecture.classes().max(architecture.context()) {
            classes @ 2..=16 => classes,
            _ => 8,
        }
    }

    fn with_folder<R>(
        &mut self,
        with: impl FnOnce(&mut RunFolder) -> Result<R>,
    ) -> Result<Option<R>> {
        self.folder.as_mut().map(with).transpose()
    }

    /// The last checkpoint, and the model.
    fn finish(&mut self, state: State) -> Result<()> {
        self.state = state;
        if self.folder.is_none() {
            return Ok(());
        }
        self.checkpoint()?;
        self.model.info.images_seen = self.images_seen();
        if let Some(path) = self.folder().map(|f| f.join("model.safetensors")) {
            self.averaged(|model| model.save(&path))??;
        }
        Ok(())
    }

    /// Saves a checkpoint now; in a folder this happens by itself, as the configuration says. Returns its path.
    ///
    /// # Errors
    /// The training keeps no folder, or the file cannot be written.
    pub fn checkpoint(&mut self) -> Result<PathBuf> {
        let (file, done, keep) = (self.contents()?, self.done, self.config.keep);
        self.with_folder(|folder| folder.save_checkpoint(done, &file, keep))?
            .context("this training keeps no folder: begin it with in_folder(path)")
    }

    /// Everything a checkpoint holds.
    fn contents(&self) -> Result<Contents> {
        let mut tensors = HashMap::new();
        let mut put = |prefix: &str, part: HashMap<String, Tensor>| {
            tensors.extend(part.into_iter().map(|(n, x)| (format!("{prefix}.{n}"), x)));
        };
        put("network", self.model.network.params().values()?);
        put("adam", self.adam.state()?);
        if let Some(ema) = &self.ema {
            put("ema", ema.state()?);
        }
        let mut metadata = self.model.network.metadata()?;
        let progress = Progress {
            steps_done: self.done,
            seconds: self.seconds,
            data: self.fingerprint.clone(),
        };
        metadata.insert(METADATA.to_owned(), serde_json::to_string(&progress)?);
        Ok(Contents { tensors, metadata })
    }

    /// Goes on from a checkpoint. Nothing is changed unless all of it fits.
    fn load(&mut self, file: &Contents) -> Result<usize> {
        let progress = file
            .metadata
            .get(METADATA)
            .context("it is no checkpoint of a training")?;
        let progress: Progress = serde_json::from_str(progress)?;
        ensure!(
            progress.data == self.fingerprint,
            "it was trained on other data than this {}",
            self.data.name()
        );
        let part = |prefix: &str| -> HashMap<String, Tensor> {
            let own = |(name, x): (&String, &Tensor)| {
                let name = name.strip_prefix(prefix)?.strip_prefix('.')?;
                Some((name.to_owned(), x.clone()))
            };
            file.tensors.iter().filter_map(own).collect()
        };
        // The optimiser first: it refuses what does not fit before it changes anything.
        self.adam.load_state(&part("adam"))?;
        if let Some(ema) = &mut self.ema {
            ema.load_state(&part("ema"))?;
        }
        self.model.network.params().assign(&part("network"))?;
        (self.done, self.seconds) = (progress.steps_done, progress.seconds);
        if self.done >= self.total {
            self.state = State::Done;
        }
        Ok(self.done)
    }

    /// Tells the live page, if there is one, how it stands: twice a second, and at the end.
    fn tell(&mut self, problem: Option<&str>) {
        let due = self.told.is_none_or(|at| at.elapsed() >= TELL);
        if due || self.state != State::Running {
            if let Some(folder) = &self.folder {
                folder.tell(|| self.live_state(folder.last_samples(), problem.unwrap_or_default()));
            }
            self.told = Some(Instant::now());
        }
    }

    fn live_state(&self, samples: Option<&str>, message: &str) -> LiveState {
        let recent = &self.history[self.history.len().saturating_sub(RECENT)..];
        let mean = |of: fn(&Step) -> f64| {
            let sum: f64 = recent.iter().map(of).sum();
            (!recent.is_empty()).then(|| sum / recent.len() as f64)
        };
        let speed = mean(|step| step.images_per_second);
        let images = (self.total - self.done) * self.config.batch * self.config.accumulate;
        let points = |of: fn(&Step) -> f64| {
            let points: Vec<_> = self.history.iter().map(|s| (s.index + 1, of(s))).collect();
            thin(&points, CURVE)
        };
        let per_epoch = self.steps_per_epoch();
        LiveState {
            state: match self.state {
                State::Running => Phase::Running,
                State::Done => Phase::Done,
                State::Stopped => Phase::Stopped,
                State::Failed => Phase::Failed,
            },
            message: message.to_owned(),
            step: self.done,
            steps: self.total,
            epoch: self.done.saturating_sub(1) / per_epoch + 1,
            epochs: self.total.div_ceil(per_epoch),
            lr: recent.last().map_or(self.config.lr, |step| step.lr),
            loss: mean(|step| step.loss),
            images_per_second: speed,
            seconds_left: speed.map(|speed| images as f64 / speed),
            seconds: self.seconds,
            grad_norm: recent.last().map(|step| step.grad_norm),
            curve: points(|step| step.loss),
            rate: points(|step| step.lr),
            samples: samples.map(str::to_owned),
            samples_title: samples.map_or_else(String::new, |path| {
                let epoch = path.trim_matches(|c: char| !c.is_ascii_digit()).parse();
                epoch.map_or_else(
                    |_| String::new(),
                    |epoch: usize| format!("Samples after epoch {epoch}"),
                )
            }),
            ..Default::default()
        }
    }

    fn asked_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.folder.as_ref().is_some_and(RunFolder::stop_requested)
    }
}

/// How long a step took.
fn step_seconds(config: &TrainingConfig) -> impl Fn(&Step) -> f64 {
    let images = (config.batch * config.accumulate) as f64;
    move |step| images / step.images_per_second
}

impl Iterator for Training {
    type Item = Result<Step>;

    /// One step; `None` when all are done, when it was asked to stop, and after an error.
    fn next(&mut self) -> Option<Result<Step>> {
        if let Some(step) = self.ahead.pop_front() {
            return Some(Ok(step));
        }
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        if self.state != State::Running {
            return None;
        }
        if self.asked_to_stop() {
            let failed = self.finish(State::Stopped).err();
            self.tell(None);
            return failed.map(Err);
        }
        let steps = self.steps().map_err(|e| self.explained(e));
        let steps = steps.and_then(|steps| {
            self.estimate();
            self.keep(&steps)?;
            Ok(steps)
        });
        let steps = steps.map_err(crate::whole);
        if steps.is_err() {
            self.state = State::Failed;
        } else if self.done >= self.total {
            self.state = State::Done;
        }
        self.tell(steps.as_ref().err().map(ToString::to_string).as_deref());
        match steps {
            Ok(steps) => self.ahead.extend(steps),
            Err(error) => self.failed = Some(error),
        }
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Precision;
    use crate::unet::SimpleUNet;

    #[test]
    fn a_full_memory_names_the_batch_and_one_that_makes_the_same_steps() -> Result<()> {
        let sprites = Dataset::sprites(64, 1)?;
        let said = |batch, accumulate| -> Result<String> {
            let config = TrainingConfig {
                batch,
                accumulate,
                ..Default::default()
            };
            let net = SimpleUNet {
                channels: 3,
                base: 8,
                ..Default::default()
            };
            let training = Training::new(config, net, &sprites, &Device::Cpu)?;
            let full = r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#;
            let error = candle_core::Error::Msg(full.to_owned()).context("conv2d");
            Ok(training.explained(error.into()).to_string())
        };
        assert_eq!(
            said(32, 1)?,
            "training: the device has no memory left for training with batch = 32 (CUDA_ERROR_OUT_OF_MEMORY); batch = 16 with \
             accumulate = 2 makes the same steps with less memory"
        );
        assert!(said(15, 2)?.contains("batch = 5 with accumulate = 6"));
        assert!(said(1, 1)?.contains("smaller network"));
        Ok(())
    }

    /// In bf16 with weights of f32 the losses are those of f32, within 2 % over 500 steps, without scaling them.
    #[test]
    fn losses_in_bf16_follow_those_in_f32() -> Result<()> {
        let sprites = Dataset::sprites(256, 1)?.resize(8, crate::data::Resize::Bilinear)?;
        let losses = |precision| -> Result<Vec<f64>> {
            let config = TrainingConfig {
                epochs: 100,
                max_steps: 500,
                batch: 8,
                lr: 1e-3,
                precision,
                ..Default::default()
            };
            let net = SimpleUNet {
                channels: 3,
                base: 4,
                groups: 2,
                ..Default::default()
            };
            let training = Training::new(config, net, &sprites, &Device::Cpu)?;
            training.map(|step| Ok(step?.loss)).collect()
        };
        let (f32s, bf16s) = (losses(Precision::F32)?, losses(Precision::Bf16)?);
        assert_eq!((f32s.len(), bf16s.len()), (500, 500));
        for (i, (a, b)) in f32s.chunks(50).zip(bf16s.chunks(50)).enumerate() {
            let (a, b): (f64, f64) = (a.iter().sum(), b.iter().sum());
            println!("steps {} …: {:.4} and {:.4}", 50 * i, a / 50.0, b / 50.0);
            assert!((b / a - 1.0).abs() < 0.02, "from step {}: {a}, {b}", 50 * i);
        }
        assert_ne!(f32s, bf16s);
        assert!(f32s[450..].iter().sum::<f64>() < 0.5 * f32s[..50].iter().sum::<f64>());
        Ok(())
    }
}
