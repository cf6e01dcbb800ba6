//! The optimiser, gradient clipping and the running average: PyTorch's numbers (`golden/optim.py` wrote them down), and
//! training that goes on from a saved state to the bit.

use anyhow::{Context, Result};
use diffusion_core::candle::backprop::GradStore;
use diffusion_core::candle::{self, DType, Device, Tensor, Var, safetensors};
use diffusion_core::rng::Rng;
use diffusion_core::train::{AdamW, AdamWConfig, Ema, EmaConfig, Warmup, clip_grad_norm};
use std::collections::{BTreeMap, HashMap};

type Params = BTreeMap<String, Var>;

fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (a.to_dtype(DType::F64)?, b.to_dtype(DType::F64)?);
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

/// The bits of all values, so that 0 and −0 differ and NaN equals itself.
fn bits<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Vec<u32>> {
    let mut bits = vec![];
    for x in tensors {
        let values = x.flatten_all()?.to_vec1::<f32>()?;
        bits.extend(values.iter().map(|x| x.to_bits()));
    }
    Ok(bits)
}

fn values(params: &Params) -> impl Iterator<Item = &Tensor> {
    params.values().map(Var::as_tensor)
}

#[test]
fn ten_steps_are_those_of_pytorch() -> Result<()> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/optim.safetensors");
    let golden = safetensors::load(golden, &Device::Cpu)?;
    let get = |name: String| golden.get(&name).with_context(|| format!("{name} is not in the golden file"));
    let names = ["linear.weight", "linear.bias", "conv.weight", "late"];
    let config = AdamWConfig { lr: 1e-2, ..AdamWConfig::default() };
    let adam = AdamWConfig { lr: 1e-2, ..AdamWConfig::adam() };
    let clipped = AdamWConfig { beta1: 0.4, beta2: 0.99, weight_decay: 0.1, ..config };
    for (run, config) in [("adam", adam), ("adamw", config), ("clipped", clipped)] {
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-13)] {
            let run = format!("{run}.{}", dtype.as_str());
            let mut params = Params::new();
            for name in names {
                let start = get(format!("start.{name}"))?.to_dtype(dtype)?;
                params.insert(name.to_string(), Var::from_tensor(&start)?);
            }
            let mut optimiser = AdamW::new(&params, config)?;
            let (mut without, mut shortened) = (0, 0);
            for step in 0..10 {
                let mut grads = GradStore::default();
                for (name, var) in &params {
                    let grad = get(format!("grads.{name}"))?.get(step)?.to_dtype(dtype)?;
                    if grad.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_nan() {
                        without += 1;
                    } else {
                        grads.insert(var, grad);
                    }
                }
                let mut scale = 1.0;
                if run.starts_with("clipped") {
                    let clip = clip_grad_norm(&params, &grads, 1.0)?;
                    let theirs = get(format!("{run}.norms"))?.get(step)?.to_dtype(DType::F64)?;
                    let off = clip.norm / theirs.to_scalar::<f64>()? - 1.0;
                    assert!(off.abs() < tolerance, "{run}, step {step}, norm: {off:e}");
                    scale = clip.scale;
                    shortened += usize::from(scale < 1.0);
                }
                optimiser.step_scaled(&grads, scale)?;
                for (name, var) in &params {
                    let theirs = get(format!("{run}.{name}"))?.get(step)?;
                    let off = largest_difference(var, &theirs)?;
                    assert!(off < tolerance, "{run}, step {step}, {name}: off by {off:e}");
                }
            }
            assert_eq!(without, 4, "`late` had no gradient in four steps");
            if run.starts_with("clipped") {
                assert!((1..10).contains(&shortened), "{shortened} were clipped");
            }
            for (name, ours) in optimiser.state()? {
                let off = largest_difference(&ours, get(format!("{run}.{name}"))?)?;
                let size = largest_difference(&ours, &ours.zeros_like()?)?.max(1.0);
                assert!(off < tolerance * size, "{run}, {name}: off by {off:e}");
            }
        }
    }
    Ok(())
}

/// Two parameters, the second longer than what one thread takes at a time.
fn params(seed: u64) -> Result<Params> {
    let mut rng = Rng::new(seed);
    let mut var = |shape: (usize, usize)| Var::from_tensor(&rng.randn(shape, &Device::Cpu)?);
    Ok(BTreeMap::from([("a".to_string(), var((2, 3))?), ("b".to_string(), var((7, 30_001))?)]))
}

fn random_grads(params: &Params, rng: &mut Rng) -> Result<GradStore> {
    let mut grads = GradStore::default();
    for var in params.values() {
        grads.insert(var, rng.randn_like(var)?);
    }
    Ok(grads)
}

/// A few steps of everything, the gradients following from `seed`.
fn train(params: &Params, adam: &mut AdamW, ema: &mut Ema, seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed);
    for _ in 0..3 {
        let grads = random_grads(params, &mut rng)?;
        let clip = clip_grad_norm(params, &grads, 1.0)?;
        adam.step_scaled(&grads, clip.scale)?;
        ema.update()?;
    }
    Ok(())
}

fn through_a_file(state: &HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state.safetensors");
    safetensors::save(state, &path)?;
    Ok(safetensors::load(&path, &Device::Cpu)?)
}

#[test]
fn training_goes_on_from_a_saved_state_to_the_bit() -> Result<()> {
    let first = params(1)?;
    let mut adam = AdamW::new(&first, AdamWConfig::default())?;
    let mut ema = Ema::new(&first, EmaConfig::default())?;
    train(&first, &mut adam, &mut ema, 10)?;
    let (adam_state, ema_state) = (through_a_file(&adam.state()?)?, through_a_file(&ema.state()?)?);
    let weights: HashMap<String, Tensor> =
        first.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    let weights = through_a_file(&weights)?;
    train(&first, &mut adam, &mut ema, 11)?;

    let second = params(2)?;
    let mut adam_again = AdamW::new(&second, AdamWConfig::default())?;
    let mut ema_again = Ema::new(&second, EmaConfig::default())?;
    // Something to overwrite, another number of steps too.
    train(&second, &mut adam_again, &mut ema_again, 12)?;
    train(&second, &mut adam_again, &mut ema_again, 12)?;
    for (name, var) in &second {
        var.set(&weights[name])?;
    }
    adam_again.load_state(&adam_state)?;
    ema_again.load_state(&ema_state)?;
    assert_eq!(ema_again.updates(), 3);
    train(&second, &mut adam_again, &mut ema_again, 11)?;

    assert!(bits(values(&first))? == bits(values(&second))?);
    for (one, two) in [(adam.state()?, adam_again.state()?), (ema.state()?, ema_again.state()?)] {
        assert_eq!(one.len(), two.len());
        for (name, tensor) in &one {
            let (tensor, other) = (tensor.to_dtype(DType::F32)?, two[name].to_dtype(DType::F32)?);
            assert!(bits([&tensor])? == bits([&other])?, "{name}");
        }
    }
    Ok(())
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() -> Result<()> {
    let with = |threads: usize| -> Result<(u64, Vec<u32>)> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| {
            let params = params(3)?;
            let grads = random_grads(&params, &mut Rng::new(13))?;
            let norm = clip_grad_norm(&params, &grads, 1.0)?.norm.to_bits();
            let mut adam = AdamW::new(&params, AdamWConfig::default())?;
            let mut ema = Ema::new(&params, EmaConfig::default())?;
            train(&params, &mut adam, &mut ema, 13)?;
            let averages: BTreeMap<_, _> = ema.averages()?.into_iter().collect();
            let bits = bits(values(&params).chain(averages.values()))?;
            Ok((norm, bits))
        })
    };
    let one = with(1)?;
    assert!(one == with(2)? && one == with(5)?);
    Ok(())
}

#[test]
fn a_parameter_without_a_gradient_is_left_as_it_is() -> Result<()> {
    let params = params(4)?;
    let config = AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() };
    let mut adam = AdamW::new(&params, config)?;
    let before = bits([params["a"].as_tensor()])?;
    adam.step(&params["b"].sqr()?.sum_all()?.backward()?)?;
    assert_eq!(bits([params["a"].as_tensor()])?, before);
    let state = adam.state()?;
    assert_eq!(state["a.step"].to_scalar::<i64>()?, 0);
    assert_eq!(state["b.step"].to_scalar::<i64>()?, 1);
    let error = adam.step(&GradStore::default()).unwrap_err();
    assert!(error.to_string().contains("none of the parameters has a gradient"));
    Ok(())
}

#[test]
fn what_is_saved_does_not_move_with_the_training() -> Result<()> {
    let params = params(5)?;
    let mut adam = AdamW::new(&params, AdamWConfig::default())?;
    let mut ema = Ema::new(&params, EmaConfig::default())?;
    let saved = [adam.state()?, ema.state()?, ema.averages()?];
    let floats = || {
        let float = |x: &&Tensor| x.dtype() == DType::F32;
        bits(saved.iter().flat_map(HashMap::values).filter(float))
    };
    let before = floats()?;
    train(&params, &mut adam, &mut ema, 14)?;
    assert!(floats()? == before);
    Ok(())
}

/// Each way in which a state may not fit, with what the message has to say; nothing may have changed.
fn refuses(
    state: HashMap<String, Tensor>,
    tensor: &str,
    mut load: impl FnMut(&HashMap<String, Tensor>) -> candle::Result<()>,
) -> Result<()> {
    let mut check = |change: &dyn Fn(&mut HashMap<String, Tensor>) -> Result<()>, wants: &[&str]| {
        let mut broken = state.clone();
        change(&mut broken)?;
        let message = load(&broken).unwrap_err().to_string();
        for want in wants {
            assert!(message.contains(want), "{message:?} lacks {want:?}");
        }
        anyhow::Ok(())
    };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu);
    check(
        &|state| {
            state.remove(tensor);
            Ok(())
        },
        &["lacks", tensor, "[2, 3]"],
    )?;
    check(
        &|state| {
            state.insert(tensor.to_string(), zeros(&[3, 2], DType::F32)?);
            Ok(())
        },
        &[tensor, "[3, 2]", "[2, 3]"],
    )?;
    check(
        &|state| {
            state.insert(tensor.to_string(), zeros(&[2, 3], DType::F64)?);
            Ok(())
        },
        &[tensor, "F64", "F32"],
    )?;
    check(
        &|state| {
            state.insert("z.exp_avg".to_string(), zeros(&[4], DType::F32)?);
            Ok(())
        },
        &["z.exp_avg", "[4]", "no parameter"],
    )?;
    check(
        &|state| {
            for tensor in state.values_mut().filter(|x| x.dtype() == DType::I64) {
                *tensor = Tensor::new(-1i64, &Device::Cpu)?;
            }
            Ok(())
        },
        &["is -1"],
    )
}

#[test]
fn a_state_that_does_not_fit_is_an_error_and_changes_nothing() -> Result<()> {
    let params = params(6)?;
    let mut adam = AdamW::new(&params, AdamWConfig::default())?;
    let mut ema = Ema::new(&params, EmaConfig::default())?;
    train(&params, &mut adam, &mut ema, 15)?;
    let (adam_state, ema_state) = (adam.state()?, ema.state()?);
    refuses(adam_state.clone(), "a.exp_avg_sq", |s| adam.load_state(s))?;
    refuses(ema_state.clone(), "a.average", |s| ema.load_state(s))?;
    for (before, after) in [(adam_state, adam.state()?), (ema_state, ema.state()?)] {
        for (name, tensor) in before {
            assert_eq!(largest_difference(&tensor, &after[&name])?, 0.0, "{name}");
        }
    }
    Ok(())
}

/// What `backward` of a transposition or a broadcast may leave behind.
#[test]
fn a_gradient_may_lie_in_memory_in_any_way() -> Result<()> {
    let x = Rng::new(1).randn((30_001, 7), &Device::Cpu)?;
    for grad in [x.t()?, x.narrow(0, 5, 1)?.t()?.broadcast_as((7, 30_001))?] {
        let mut results = vec![];
        for grad in [grad.contiguous()?, grad] {
            let params = params(10)?;
            let mut grads = GradStore::default();
            grads.insert(&params["b"], grad);
            let clip = clip_grad_norm(&params, &grads, 1.0)?;
            AdamW::new(&params, AdamWConfig::default())?.step_scaled(&grads, clip.scale)?;
            results.push(bits(values(&params))?);
        }
        assert!(results[0] == results[1]);
    }
    Ok(())
}

#[test]
fn wrong_gradients_are_errors_and_change_nothing() -> Result<()> {
    let params = params(7)?;
    let mut adam = AdamW::new(&params, AdamWConfig::default())?;
    let before = bits(values(&params))?;
    for (wrong, wants) in
        [(Tensor::zeros((7, 3), DType::F32, &Device::Cpu)?, "[7, 3]"), (params["b"].to_dtype(DType::F64)?, "F64")]
    {
        let mut grads = random_grads(&params, &mut Rng::new(1))?;
        grads.insert(&params["b"], wrong);
        let message = adam.step(&grads).unwrap_err().to_string();
        assert!(message.contains("b is ([7, 30001], F32, Cpu)"), "{message}");
        assert!(message.contains(wants), "{message}");
    }
    let grads = random_grads(&params, &mut Rng::new(1))?;
    let message = adam.step_scaled(&grads, f64::NAN).unwrap_err().to_string();
    assert!(message.contains("scale = NaN"), "{message}");
    assert!(bits(values(&params))? == before);
    assert_eq!(adam.state()?["a.step"].to_scalar::<i64>()?, 0);
    Ok(())
}

#[test]
fn parameters_that_cannot_be_trained_are_errors_that_name_them() -> Result<()> {
    let var = Var::new(&[1f32], &Device::Cpu)?;
    let named = |pairs: &[(&str, &Var)]| -> Params {
        pairs.iter().map(|(name, var)| (name.to_string(), (*var).clone())).collect()
    };
    let integer = Var::zeros(3, DType::U32, &Device::Cpu)?;
    for (params, want) in [
        (named(&[]), "there are no parameters"),
        (named(&[("a", &var), ("index", &integer)]), "index is of type U32"),
        (named(&[("a", &var), ("b", &var)]), "a and b are the same variable"),
    ] {
        let adam = AdamW::new(&params, AdamWConfig::default()).unwrap_err();
        let ema = Ema::new(&params, EmaConfig::default()).unwrap_err();
        for message in [adam.to_string(), ema.to_string()] {
            assert!(message.contains(want), "{message:?} lacks {want:?}");
        }
    }
    let params = named(&[("a", &var)]);
    for decay in [-0.1, 1.0, f64::NAN] {
        let config = EmaConfig { decay, warmup: Warmup::Off };
        let message = Ema::new(&params, config).unwrap_err().to_string();
        assert!(message.contains(&format!("ema: decay = {decay} must be")), "{message}");
    }
    Ok(())
}

/// θ̄_n = dⁿ θ_0 + (1−d) Σ d^(n−1−i) θ_{i+1}.
#[test]
fn the_average_is_the_closed_form() -> Result<()> {
    let (decay, shape) = (0.8f64, (3, 40_000));
    let mut rng = Rng::new(8);
    let start = rng.randn(shape, &Device::Cpu)?;
    let var = Var::from_tensor(&start)?;
    let params = BTreeMap::from([("w".to_string(), var.clone())]);
    let config = EmaConfig { decay, warmup: Warmup::Off };
    let mut ema = Ema::new(&params, config)?;
    let n = 12;
    let mut want = (start.to_dtype(DType::F64)? * decay.powi(n))?;
    for i in 0..n {
        let theta = rng.randn(shape, &Device::Cpu)?;
        var.set(&theta)?;
        ema.update()?;
        want = (want + (theta.to_dtype(DType::F64)? * ((1.0 - decay) * decay.powi(n - 1 - i)))?)?;
    }
    assert!(largest_difference(&ema.averages()?["w"], &want)? < 1e-6);
    // Without memory it is the parameter itself, exactly.
    let mut forgetful = Ema::new(&params, EmaConfig { decay: 0.0, ..config })?;
    var.set(&start)?;
    forgetful.update()?;
    assert!(bits([&forgetful.averages()?["w"]])? == bits([&start])?);
    Ok(())
}

#[test]
fn the_parameters_come_back_after_the_averages() -> Result<()> {
    let params = params(9)?;
    let mut adam = AdamW::new(&params, AdamWConfig::default())?;
    let mut ema = Ema::new(&params, EmaConfig::default())?;
    train(&params, &mut adam, &mut ema, 16)?;
    let own = bits(values(&params))?;
    let averages: BTreeMap<_, _> = ema.averages()?.into_iter().collect();
    let averages = bits(averages.values())?;
    assert!(own != averages);

    assert!(ema.averaged(|| bits(values(&params)))?? == averages);
    assert!(bits(values(&params))? == own);
    let failed: Result<()> = ema.averaged(|| anyhow::bail!("sampling failed"))?;
    assert!(failed.is_err() && bits(values(&params))? == own);

    assert!(ema.restore().unwrap_err().to_string().contains("call apply first"));
    ema.apply()?;
    assert!(ema.apply().unwrap_err().to_string().contains("call restore first"));
    assert!(ema.update().unwrap_err().to_string().contains("call restore before"));
    assert!(bits([&ema.state()?["a.average"], &ema.state()?["b.average"]])? == averages);
    ema.restore()?;
    assert!(bits(values(&params))? == own);
    ema.update()?;
    Ok(())
}
