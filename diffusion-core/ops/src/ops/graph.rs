//! Kernels as nodes of candle's graph, whose gradients are passed on instead of being added to zeros.
//!
//! For every argument of every operation, candle's backward pass fills a tensor with zeros and adds the gradient to it,
//! on one thread. For a U-Net that takes as much memory traffic as all its activations and norms. To avoid it, candle
//! only sees small tensors: each result of a kernel has a *token*, a tensor of one element, and the tokens depend on
//! each other:
//!
//! ```text
//! token of x ──┐
//!              ├── token of y = kernel(x, w) ── y, the tensor that the caller gets
//! token of w ──┘
//! ```
//!
//! When candle's pass reaches y, because an operation of candle has used it, the gradient is stored for the token of y.
//! When the pass reaches the token, everything that depends on it is complete: the kernel computes its gradients from
//! the stored one and stores each for the token of its argument, by moving it or adding it to an existing one. If an
//! argument is not the result of a kernel, but a variable or a result of candle, its token passes the sum to candle.
//! Kernels and candle's operations can therefore be mixed, and `loss.backward()` works as usual; [`backward`] also
//! avoids the addition to zeros for variables.

use super::cpu::{add_to, read};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, TensorId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

/// A gradient in the element order of its tensor. It may be shared: both arguments of a sum have the same one.
pub(super) type Gradient = Arc<Vec<f32>>;

/// An operation on N f32 tensors with a CPU kernel.
pub(super) trait Kernel<const N: usize>: Send + Sync + 'static {
    /// The elements of the result, and its shape.
    fn forward(&self, x: [&[f32]; N], shapes: [&Shape; N]) -> (Vec<f32>, Shape);

    /// Whether [`Kernel::backward`] needs the arguments. If not, they are not kept, and it receives empty slices.
    fn needs_arguments(&self) -> bool {
        true
    }

    /// The gradients with respect to the arguments selected by `wanted`, from `dy`, the gradient of the result.
    fn backward(&self, x: [&[f32]; N], shapes: [&Shape; N], dy: Gradient, wanted: [bool; N]) -> [Option<Gradient>; N];
}

/// The result of `kernel` for arguments that the CPU kernels [support](super::cpu::takes).
pub(super) fn apply<const N: usize>(name: &'static str, kernel: impl Kernel<N>, x: [&Tensor; N]) -> Result<Tensor> {
    let mut inputs = Vec::with_capacity(N);
    for x in x {
        inputs.push(x.contiguous()?);
    }
    let tensors: [&Tensor; N] = std::array::from_fn(|i| &inputs[i]);
    let (values, shape) = timed(name, false, tensors.map(Tensor::shape), || {
        read(tensors, |x| kernel.forward(x, tensors.map(Tensor::shape)))
    })?;
    let mut sources = Vec::with_capacity(N);
    for x in &inputs {
        sources.push(if x.track_op() { Some(Source::of(x)?) } else { None });
    }
    let tokens: Vec<&Tensor> = sources.iter().flatten().map(|source| &source.token).collect();
    let on = match tokens[..] {
        [] => return Tensor::from_vec(values, shape, &Device::Cpu),
        [one] => one.clone(),
        _ => Tensor::cat(&tokens, 0)?,
    };
    let number = next_number();
    let shapes = inputs.iter().map(|x| x.shape().clone()).collect();
    if !kernel.needs_arguments() {
        inputs.clear();
    }
    let token = on.apply_op1(Step { name, kernel, inputs, shapes, sources, number })?;
    let source = Arc::new(Source { number, token, of: OnceLock::new() });
    let result = Revealed { name, values: Mutex::new(Some((values, shape))), source: source.clone() };
    let y = source.token.apply_op1(result)?;
    let _ = source.of.set(y.id());
    sources_by_id().insert(y.id(), Arc::downgrade(&source));
    Ok(y)
}

/// Computes the gradients of `loss`, a scalar tensor, with respect to all variables, like candle's `loss.backward()`,
/// but without adding the gradients of variables to zeros first.
///
/// # Errors
/// See `loss.backward()`.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor, Var}, ops::{backward, silu}};
/// let x = Var::new(&[0f32, 1.0], &Device::Cpu)?;
/// let gradients = backward(&silu(&x)?.sum_all()?)?;
/// assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>()?[0], 0.5);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    // An error in an earlier pass may have left entries.
    ASIDE.with_borrow_mut(HashMap::clear);
    let before = OF_VARIABLES.replace(Some(HashMap::new()));
    let gradients = loss.backward();
    let of_variables = OF_VARIABLES.replace(before);
    let mut gradients = gradients?;
    for (variable, gradient) in of_variables.into_iter().flat_map(HashMap::into_values) {
        let gradient = tensor(gradient, variable.shape())?;
        let sum = match gradients.remove(&variable) {
            Some(other) => (other + gradient)?,
            None => gradient,
        };
        gradients.insert(&variable, sum);
    }
    Ok(gradients)
}

/// The time that a kernel took, for `make bench`.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Took {
    pub name: &'static str,
    pub backward: bool,
    /// The shapes of the arguments.
    pub shapes: Vec<Vec<usize>>,
    pub seconds: f64,
}

/// The result of `run`, and the time of each kernel that this thread called in it.
#[doc(hidden)]
pub fn profile<T>(run: impl FnOnce() -> T) -> (T, Vec<Took>) {
    TOOK.set(Some(Vec::new()));
    let result = run();
    (result, TOOK.take().unwrap_or_default())
}

fn timed<T, const N: usize>(name: &'static str, backward: bool, shapes: [&Shape; N], run: impl FnOnce() -> T) -> T {
    if TOOK.with_borrow(Option::is_none) {
        return run();
    }
    let began = Instant::now();
    let result = run();
    let seconds = began.elapsed().as_secs_f64();
    let shapes = shapes.iter().map(|shape| shape.dims().to_vec()).collect();
    TOOK.with_borrow_mut(|took| took.as_mut().map(|took| took.push(Took { name, backward, shapes, seconds })));
    result
}

/// The destination of a tensor's gradient: the kernel that computed the tensor, or candle.
struct Source {
    number: u64,
    token: Tensor,
    /// The tensor, if a kernel has computed it.
    of: OnceLock<TensorId>,
}

impl Source {
    /// The source of `x`.
    fn of(x: &Tensor) -> Result<Arc<Self>> {
        if let Some(source) = sources_by_id().get(&x.id()).and_then(Weak::upgrade) {
            return Ok(source);
        }
        let number = next_number();
        Ok(Arc::new(Self { number, token: x.apply_op1(Given { number })?, of: OnceLock::new() }))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(id) = self.of.get() {
            sources_by_id().remove(id);
        }
    }
}

/// The sources of the tensors that kernels have computed. candle does not expose the operation of a tensor, so this
/// must be global; an entry lives as long as its tensor.
static SOURCES: LazyLock<Mutex<HashMap<TensorId, Weak<Source>>>> = LazyLock::new(Mutex::default);

fn sources_by_id() -> std::sync::MutexGuard<'static, HashMap<TensorId, Weak<Source>>> {
    SOURCES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The gradients of variables that [`backward`] collects.
type OfVariables = HashMap<TensorId, (Tensor, Gradient)>;

thread_local! {
    /// The gradients stored for tokens, in the backward pass on this thread.
    static ASIDE: RefCell<HashMap<u64, Gradient>> = RefCell::default();
    static OF_VARIABLES: RefCell<Option<OfVariables>> = const { RefCell::new(None) };
    static TOOK: RefCell<Option<Vec<Took>>> = const { RefCell::new(None) };
}

/// Stores `gradient` for the token with this number.
fn put_aside(number: u64, gradient: Gradient) {
    ASIDE.with_borrow_mut(|aside| match aside.remove(&number) {
        Some(sum) => aside.insert(number, add(sum, &gradient)),
        None => aside.insert(number, gradient),
    });
}

fn take(number: u64) -> Option<Gradient> {
    ASIDE.with_borrow_mut(|aside| aside.remove(&number))
}

/// The sum, in place unless the first gradient is shared.
fn add(mut sum: Gradient, gradient: &[f32]) -> Gradient {
    let numbers: &mut Vec<f32> = Arc::make_mut(&mut sum);
    add_to(numbers, gradient);
    sum
}

fn tensor(gradient: Gradient, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(Arc::unwrap_or_clone(gradient), shape, &Device::Cpu)
}

/// The value of a token.
fn token() -> (CpuStorage, Shape) {
    (CpuStorage::F32(vec![0.0]), Shape::from(1))
}

/// Connects a tensor that no kernel has computed to its token.
struct Given {
    number: u64,
}

impl CustomOp1 for Given {
    fn name(&self) -> &'static str {
        "token"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(token())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        let Some(gradient) = take(self.number) else {
            return Ok(None);
        };
        if !x.is_variable() {
            return tensor(gradient, x.shape()).map(Some);
        }
        OF_VARIABLES.with_borrow_mut(|of_variables| match of_variables {
            Some(of_variables) => {
                let sum = match of_variables.remove(&x.id()) {
                    Some((_, sum)) => add(sum, &gradient),
                    None => gradient,
                };
                of_variables.insert(x.id(), (x.clone(), sum));
                Ok(None)
            }
            None => tensor(gradient, x.shape()).map(Some),
        })
    }
}

/// Connects the tokens of the arguments to that of the result.
struct Step<K, const N: usize> {
    name: &'static str,
    kernel: K,
    /// The arguments, if they are needed.
    inputs: Vec<Tensor>,
    /// The shapes of the N arguments.
    shapes: Vec<Shape>,
    sources: Vec<Option<Arc<Source>>>,
    number: u64,
}

impl<K: Kernel<N>, const N: usize> CustomOp1 for Step<K, N> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(token())
    }

    fn bwd(&self, tokens: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        if let Some(dy) = take(self.number) {
            let shapes = std::array::from_fn(|i| &self.shapes[i]);
            let wanted = std::array::from_fn(|i| self.sources[i].is_some());
            let gradients = timed(self.name, true, shapes, || {
                if self.inputs.is_empty() {
                    return Ok(self.kernel.backward([&[]; N], shapes, dy, wanted));
                }
                let inputs: [&Tensor; N] = std::array::from_fn(|i| &self.inputs[i]);
                read(inputs, |x| self.kernel.backward(x, shapes, dy, wanted))
            })?;
            for (source, gradient) in self.sources.iter().zip(gradients) {
                if let (Some(source), Some(gradient)) = (source, gradient) {
                    put_aside(source.number, gradient);
                }
            }
        }
        tokens.zeros_like().map(Some)
    }
}

/// Connects the token of a result to the result itself.
struct Revealed {
    name: &'static str,
    values: Mutex<Option<(Vec<f32>, Shape)>>,
    source: Arc<Source>,
}

impl CustomOp1 for Revealed {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (values, shape) = values.ok_or_else(|| candle_core::Error::msg("a result can only be revealed once"))?;
        Ok((CpuStorage::F32(values), shape))
    }

    fn bwd(&self, token: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let gradient = read([dy], |[dy]| dy.to_vec())?;
        put_aside(self.source.number, Arc::new(gradient));
        token.zeros_like().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{add, concat_channels, relu, silu};
    use super::*;
    use candle_core::Var;

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A network in which tensors are used several times, by kernels and by candle, and one is not used.
    fn loss(x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let y = silu(x)?;
        let _unused = relu(&y)?;
        let both = add(&y, &(&y * w)?, 1.0)?;
        let both = concat_channels(&both, &y)?;
        (add(&both, &both, 1.0)?.sqr()?.sum_all()? + (y.sum_all()? * x.mean_all()?)?)? + w.sum_all()?
    }

    #[test]
    fn gradients_equal_those_of_candle_with_and_without_kernels() -> Result<()> {
        let cpu = &Device::Cpu;
        let (x, w) = (Var::new(&[[0.3f32, -1.2], [2.0, 0.1]], cpu)?, Var::new(&[[1f32, 2.0], [-0.5, 0.7]], cpu)?);
        let exact = |v: &Var| Var::from_tensor(&v.to_dtype(candle_core::DType::F64)?);
        let (x64, w64) = (exact(&x)?, exact(&w)?);
        let want = loss(&x64, &w64)?.backward()?;
        let loss = loss(&x, &w)?;
        // Twice over the same graph: the first pass must leave nothing behind.
        for gradients in [loss.backward()?, backward(&loss)?, backward(&loss)?, loss.backward()?] {
            for (var, exact) in [(&x, &x64), (&w, &w64)] {
                let want = want.get(exact).unwrap().to_dtype(candle_core::DType::F32)?;
                let got = gradients.get(var).unwrap();
                assert_eq!(got.dims(), var.dims());
                for (got, want) in numbers(got).iter().zip(numbers(&want)) {
                    assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{got} {want}");
                }
            }
        }
        assert!(ASIDE.with_borrow(HashMap::is_empty));
        Ok(())
    }

    #[test]
    fn an_entry_lives_as_long_as_its_tensor() -> Result<()> {
        let x = Var::new(&[1f32, 2.0], &Device::Cpu)?;
        let y = silu(&x)?;
        let z = silu(&y)?;
        let (of_y, of_z) = (y.id(), z.id());
        assert!(sources_by_id().contains_key(&of_y));
        drop(y);
        assert!(sources_by_id().contains_key(&of_y), "z needs it");
        drop(z);
        assert!(!sources_by_id().contains_key(&of_y) && !sources_by_id().contains_key(&of_z));
        Ok(())
    }

    #[test]
    fn nothing_is_kept_of_constants() -> Result<()> {
        let x = Tensor::new(&[1f32, 2.0], &Device::Cpu)?;
        let y = silu(&x)?;
        assert!(!y.track_op() && !sources_by_id().contains_key(&y.id()));
        Ok(())
    }
}
