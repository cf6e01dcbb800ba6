//! `diffusion train`.

mod options;
mod size;

pub use options::Options;
use options::{Condition, Objective as Chosen};

use crate::edit::Way;
use crate::recipe;
use crate::request::{counted, quoted};
use crate::tensorboard::Events;
use anyhow::{Context, Result, bail, ensure};
use diffusion_core::candle::Device;
use diffusion_core::config::{ObjectiveConfig, RunConfig, parse_choice};
use diffusion_core::data::{Cache, Dataset, Source, TASKS};
use diffusion_core::latent::{Autoencoder, Vae, encoded};
use diffusion_core::model::Model;
use diffusion_core::prediction::Prediction;
use diffusion_core::process::NoiseProcess;
use diffusion_core::schedule::{Betas, Schedule};
use diffusion_core::train::{
    ConditionOn, Consistency, ConsistencyConfig, Diffusion, Existing, ModelObjective, Objective, Optimiser, State,
    Training, VaeLoss, VaeLossConfig, Weighting, check_source,
};
use diffusion_core::unet::Architecture;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The exit code of an interrupted command, as shells expect it.
const INTERRUPTED: u8 = 130;

/// The smallest number of epochs with --minutes, so that the time limit ends the training.
const TIMED_EPOCHS: usize = 1000;

/// A configuration, its data, and the autoencoder whose latents the data are, if they are latents.
struct Plan {
    run: RunConfig,
    data: Dataset,
    held_out: Dataset,
    autoencoder: Option<Vae>,
}

impl Options {
    /// The configuration comes from the run's folder, from a file or from a recipe; flags override it.
    fn plan(&self, device: &Device) -> Result<Plan> {
        let mut run = match (&self.resume, &self.config) {
            (Some(folder), _) => RunConfig::load(folder.join("config.toml"))
                .with_context(|| format!("--resume {}: this is not the folder of a run", folder.display()))?,
            (None, Some(path)) => RunConfig::load(path)?,
            (None, None) => RunConfig::default(),
        };
        let teacher = self.set_objective(&mut run)?;
        set(&mut run.data.task, self.task.clone());
        set(&mut run.data.images, self.images);
        run.data.skip_bad |= self.skip_bad;
        if self.side.is_some() {
            run.data.side = self.side;
        }
        set(&mut run.data.fit, self.fit.map(Way::fit));
        make_absolute(&mut run.data)?;
        set(&mut run.training.seed, self.seed);
        set(&mut run.condition, self.condition.map(Condition::on));
        if let Some(teacher) = &teacher {
            run.condition = ConditionOn::of(teacher.network.architecture());
        }
        run.data.captions = run.condition == ConditionOn::Text;
        // Report what is wrong before reading the images.
        let mut flagged = run.clone();
        self.set_flags(&mut flagged)?;
        let autoencoder = self.autoencoder(&mut run, teacher.as_ref(), device)?;
        let cache = self.check_data(&flagged, teacher.is_some(), autoencoder.as_ref())?;
        let (mut data, mut held_out) = run.data.load_both_cached(run.training.seed, &cache)?;
        if self.resume.is_none() && self.config.is_none() {
            let photographs = run.data.is_photographs();
            let shape = autoencoder.as_ref().map_or(Ok(data.shape()), |vae| vae.latent_shape(data.shape()))?;
            match &teacher {
                Some(_) => recipe::set_consistency(&mut run.training),
                None => self.recipe.set(&mut run, &data, shape, photographs)?,
            }
            if self.minutes.is_some() {
                run.training.epochs = run.training.epochs.max(TIMED_EPOCHS);
            }
            data = data.with_augmentation(run.data.augment.iter().copied());
        }
        self.set_flags(&mut run)?;
        if let Some(Model { network, info, .. }) = &teacher {
            (run.training.process, run.training.prediction) = (info.process.clone(), info.prediction);
            run.network = network.architecture().clone();
        }
        run.training.check()?;
        println!("{data}");
        if let Some(vae) = &autoencoder {
            (data, held_out) = (encoded(&data, vae, device)?, encoded(&held_out, vae, device)?);
            let [c, h, w] = data.shape();
            println!("{} of {c}×{h}×{w}", counted(data.len(), "latent"));
        }
        Ok(Plan { run, data, held_out, autoencoder })
    }

    /// The autoencoder that the configuration names, or that of the teacher.
    fn autoencoder(&self, run: &mut RunConfig, teacher: Option<&Model>, device: &Device) -> Result<Option<Vae>> {
        set(&mut run.autoencoder, self.autoencoder.clone().map(Some));
        if let Some(teacher) = teacher {
            ensure!(
                self.autoencoder.is_none(),
                "--autoencoder: the model of --from determines it; leave --autoencoder out"
            );
            return Ok(teacher.autoencoder.as_ref().map(Vae::copy).transpose()?);
        }
        let Some(path) = &mut run.autoencoder else { return Ok(None) };
        ensure!(
            matches!(run.objective, ObjectiveConfig::Diffusion),
            "--autoencoder: --objective vae trains a new one; leave --autoencoder out"
        );
        *path = absolute(path)?;
        Ok(Some(Vae::load(path, device).context("--autoencoder")?))
    }

    /// Applies the flags of the objective, and returns the teacher if there is one: it determines the data, the noise process, the
    /// prediction type and the network.
    fn set_objective(&self, run: &mut RunConfig) -> Result<Option<Model>> {
        match self.objective {
            Some(Chosen::Diffusion) => run.objective = ObjectiveConfig::Diffusion,
            Some(Chosen::Consistency) if !matches!(run.objective, ObjectiveConfig::Consistency(_)) => {
                run.objective = ObjectiveConfig::Consistency(ConsistencyConfig::default());
            }
            Some(Chosen::Vae) if !matches!(run.objective, ObjectiveConfig::Vae(_)) => {
                run.objective = ObjectiveConfig::Vae(VaeLossConfig::default());
            }
            _ => {}
        }
        match &mut run.objective {
            ObjectiveConfig::Vae(settings) => {
                set(&mut settings.kl_weight, self.kl_weight);
                if let Some(flag) = self.of_network() {
                    bail!(
                        "{flag}: it is for diffusion models, and --objective vae trains an autoencoder; leave {flag} out"
                    );
                }
            }
            _ => ensure!(
                self.kl_weight.is_none(),
                "--kl-weight belongs to --objective vae; name it, or leave --kl-weight out"
            ),
        }
        let ObjectiveConfig::Consistency(settings) = &mut run.objective else {
            ensure!(
                self.from.is_none() && self.guidance.is_none(),
                "--from and --guidance belong to --objective consistency; name it, or leave them out"
            );
            return Ok(None);
        };
        set(&mut settings.teacher, self.from.clone());
        set(&mut settings.guidance, self.guidance);
        settings.check()?;
        ensure!(
            !settings.teacher.as_os_str().is_empty(),
            "--objective consistency: name the trained model to start from with --from, such as weights/mnist.safetensors"
        );
        if let Some(flag) = self.of_network() {
            bail!("{flag}: the model of --from determines it; leave {flag} out");
        }
        let teacher = Model::load(&settings.teacher, &Device::Cpu).context("--from")?;
        settings.teacher = absolute(&settings.teacher)?;
        if self.config.is_none() && self.resume.is_none() && self.task.is_none() {
            let task = &teacher.info.data;
            ensure!(
                TASKS.contains(&task.as_str()) || Path::new(task).exists(),
                "--from: the model was trained on {task}, which is not here; name its training data with --task"
            );
            run.data.task.clone_from(task);
        }
        Ok(Some(teacher))
    }

    /// A flag of the network, the noise process or the condition that was given.
    fn of_network(&self) -> Option<&'static str> {
        let given = [
            ("--model", self.model.is_some()),
            ("--process", self.process.is_some()),
            ("--prediction", self.prediction.is_some()),
            ("--timesteps", self.timesteps.is_some()),
            ("--betas", self.betas.is_some()),
            ("--condition", self.condition.is_some()),
        ];
        given.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
    }

    /// Applies the flags of the network and the training.
    fn set_flags(&self, run: &mut RunConfig) -> Result<()> {
        if let Some(name) = &self.model
            && *name != run.network.name()
        {
            run.network = parse_choice::<Architecture>(name).context("--model")?;
        }
        self.set_process(run)?;
        if let Some(name) = &self.prediction {
            run.training.prediction = parse_choice::<Prediction>(name).context("--prediction")?;
        }
        if let Some(name) = &self.optimiser {
            run.training.optimiser = parse_choice::<Optimiser>(name).context("--optimiser")?;
        }
        let training = &mut run.training;
        set(&mut training.epochs, self.epochs);
        if self.resume.is_none() {
            set(&mut training.train_steps, self.train_steps);
        }
        set(&mut training.samples, self.samples);
        training.validate_every = self.validate_every.or(training.validate_every);
        if let Some(epochs) = self.sample_every {
            (training.sample_every, training.sample_share) = (epochs, 1.0);
        }
        set(&mut training.batch, self.batch);
        set(&mut training.lr, self.lr);
        set(&mut training.precision, self.precision);
        Ok(())
    }

    /// Applies the flags of the noise process. A new process brings its usual prediction type.
    fn set_process(&self, run: &mut RunConfig) -> Result<()> {
        let training = &mut run.training;
        if let Some(name) = &self.process
            && *name != training.process.name()
        {
            training.process = parse_choice::<NoiseProcess>(name).context("--process")?;
            training.prediction = match &training.process {
                NoiseProcess::Vp(_) => Prediction::Eps,
                NoiseProcess::Flow { .. } => Prediction::Velocity,
                NoiseProcess::Edm { .. } => Prediction::EDM,
            };
            // The other weightings are defined by the signal and noise of the discrete process.
            training.weighting = Weighting::Uniform;
        }
        if self.timesteps.is_none() && self.betas.is_none() {
            return Ok(());
        }
        let NoiseProcess::Vp(schedule) = &training.process else {
            bail!(
                "--timesteps and --betas belong to the vp process, but this run uses {}; leave them out",
                training.process.name()
            )
        };
        let betas = match &self.betas {
            Some(name) => parse_choice::<Betas>(name).context("--betas")?,
            None => schedule.kind().clone(),
        };
        let timesteps = self.timesteps.unwrap_or(schedule.timesteps());
        training.process = Schedule::new(timesteps, betas)?.into();
        Ok(())
    }

    /// The folder of the run, which must not be inside the folder of images.
    fn folder(&self, run: &RunConfig) -> Result<PathBuf> {
        let task = Path::new(&run.data.task);
        let name = task.file_name().unwrap_or(OsStr::new("images"));
        let default = || Path::new("runs").join(name);
        let folder = self.resume.clone().or(self.out.clone()).unwrap_or_else(default);
        if task.is_dir() && !TASKS.contains(&run.data.task.as_str()) {
            ensure!(
                !std::path::absolute(&folder)?.starts_with(task),
                "{} is inside the folder of training images, so the run's samples would become training images; choose another \
                 folder with --out",
                folder.display()
            );
        }
        Ok(folder)
    }

    /// Checks what can be known of the data before it is read, and returns the file for decoded pictures.
    fn check_data(&self, run: &RunConfig, has_teacher: bool, autoencoder: Option<&Vae>) -> Result<Cache> {
        let (folder, task) = (self.folder(run)?, &run.data.task);
        if let Some(resumed) = &self.resume {
            ensure!(
                TASKS.contains(&task.as_str()) || Path::new(task).exists(),
                "--resume {}: its training data {task} is not there. If it has moved, resume with: cargo diffusion train --config \
                 {} --task NEW_PATH --out {}",
                resumed.display(),
                quoted(&resumed.join("config.toml")),
                quoted(resumed)
            );
        }
        let there = RunConfig::load(folder.join("config.toml")).ok().filter(|_| !self.start_over);
        if !self.start_over {
            check_source(&folder, &run.data)?;
        }
        if self.resume.is_none() && !has_teacher {
            size::check(run, autoencoder, self.config.is_some() || there.is_some())?;
        }
        // The run of other data in this folder, which will be refused, keeps its decoded pictures.
        let other = there.is_some_and(|there| there.data.task != *task) && !self.new_data;
        Ok(Cache { replace: !other, ..Cache::in_folder(folder) })
    }

    fn limit(&self) -> Result<Option<Duration>> {
        let limit = |minutes: f64| {
            let limit = Duration::try_from_secs_f64(60.0 * minutes).ok().filter(|limit| !limit.is_zero());
            limit.with_context(|| format!("--minutes {minutes}: it must be a positive number of reasonable size"))
        };
        self.minutes.map(limit).transpose()
    }

    fn existing(&self) -> Existing {
        match (self.start_over, self.new_data) {
            (true, _) => Existing::StartOver,
            (_, true) => Existing::NewData,
            _ => Existing::Resume,
        }
    }
}

fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    fs::canonicalize(path).or_else(|_| std::path::absolute(path))
}

/// Makes paths absolute, so that the run can be resumed from any folder.
fn make_absolute(data: &mut Source) -> Result<()> {
    if !TASKS.contains(&data.task.as_str()) && Path::new(&data.task).exists() {
        let path = absolute(Path::new(&data.task))?;
        data.task = path.into_os_string().into_string().map_err(|path| {
            anyhow::anyhow!("--task {}: the name is not valid Unicode; rename the folder or file", path.display())
        })?;
    }
    if let Some(labels) = &mut data.labels {
        *labels = absolute(labels)?;
    }
    Ok(())
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

pub fn run(options: Options) -> Result<ExitCode> {
    let device = crate::device(options.device)?;
    options.limit()?;
    let Plan { run, data, held_out, autoencoder } = options.plan(&device)?;
    let config = run.training.clone();
    match &run.objective {
        ObjectiveConfig::Diffusion => {
            let architecture = run.architecture(&data);
            if run.condition == ConditionOn::Text {
                ensure!(
                    architecture.tokens() > 0,
                    "--condition text: the network {} reads no text; use --model simple-unet",
                    architecture.name()
                );
                let (words, longest) = (architecture.conditioning().vocabulary, architecture.tokens());
                println!(
                    "captions of {}, the longest of {}",
                    counted(words, "different word"),
                    counted(longest, "word")
                );
            }
            let mut objective = Diffusion::new(&config, architecture, &data, &device)?;
            if let Some(vae) = autoencoder {
                objective = objective.with_autoencoder(vae)?;
            }
            let name = objective.model().network.architecture().name().to_owned();
            train(Training::with_objective(config, objective, &data)?, &name, &options, &run, held_out)
        }
        ObjectiveConfig::Consistency(settings) => {
            let objective = Consistency::new(&config, settings.clone(), &data, &device)?;
            let name = objective.model().network.architecture().name().to_owned();
            train(Training::with_objective(config, objective, &data)?, &name, &options, &run, held_out)
        }
        ObjectiveConfig::Vae(settings) => {
            let objective = VaeLoss::new(*settings, config.seed, &data, &device)?;
            train(Training::with_objective(config, objective, &data)?, "vae", &options, &run, held_out)
        }
    }
}

/// Runs a training of the network with this name.
fn train<O: Objective>(
    training: Training<O>,
    name: &str,
    options: &Options,
    run: &RunConfig,
    held_out: Dataset,
) -> Result<ExitCode> {
    let (folder, images) = (options.folder(run)?, counted(held_out.len(), "image"));
    let mut training =
        training.source(run.data.clone()).validate_on(held_out)?.in_folder_with(&folder, options.existing())?;
    if options.resume.is_some()
        && let Some(steps) = options.train_steps
    {
        training.stop_after(steps);
    }
    if let Some(limit) = options.limit()? {
        training.end_within(limit);
    }
    println!("{}", recipe::words(run));
    println!(
        "{name}: {} parameters; at most {} steps with batches of {}; {}",
        training.objective().parameters().count(),
        training.total_steps(),
        training.config().batch * training.config().accumulate,
        folder.display()
    );
    match training.validate_every() {
        0 => println!("held out: {images}; no validation loss"),
        every => println!("held out: {images}; validation loss every {}", counted(every, "step")),
    }
    let mut events = Events::begin(&training, options.tensorboard, options.start_over)?;
    if events.is_some() {
        println!("to follow it: tensorboard --logdir {}", quoted(&folder));
    }
    stop_on_interrupt(&training)?;
    let report = training.run_with(|training, step| {
        if let Some(events) = &mut events {
            events.step(training, step);
        }
    })?;
    println!("{report}");
    println!("model: {}", folder.join("model.safetensors").display());
    if report.state == State::Stopped {
        println!("resume with: cargo diffusion train --resume {}", quoted(&folder));
        if options.train_steps.is_none_or(|steps| report.steps < steps) {
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Stops after the current step at the first Ctrl-C and saves a checkpoint; the second Ctrl-C ends the process.
fn stop_on_interrupt<O: Objective>(training: &Training<O>) -> Result<()> {
    let (stop, pressed) = (training.stopper(), AtomicBool::new(false));
    ctrlc::set_handler(move || {
        if pressed.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        eprintln!("\nstopping after this step and saving a checkpoint; press Ctrl-C again to quit at once");
        stop.store(true, Ordering::Relaxed);
    })
    .context("cannot install the handler for Ctrl-C")
}
