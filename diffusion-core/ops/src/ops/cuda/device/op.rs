//! Operations of candle's graph that run kernels on a CUDA device, and their memory.

use super::super::launch::{Argument, Launch, Real};
use super::module;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, CudaStorage, CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaDevice, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail,
};
use half::bf16;

/// Whether the kernels can be used: one CUDA device, images of f32 or bf16, the others of f32 or the image's type.
pub(in crate::ops) fn takes(image: &Tensor, others: &[&Tensor]) -> bool {
    let fits = |x: &Tensor| x.dtype() == DType::F32 || x.dtype() == image.dtype();
    image.device().is_cuda()
        && matches!(image.dtype(), DType::F32 | DType::BF16)
        && others.iter().all(|x| fits(x) && x.device().same_device(image.device()))
}

/// An operation whose values and gradients are computed by kernels.
pub(super) trait Kernel: Send + Sync + 'static {
    const NAME: &'static str;

    /// The result for contiguous `inputs`.
    fn forward(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)>;

    /// The gradients with respect to the inputs that need one.
    fn backward(&self, device: &CudaDevice, inputs: &[&Tensor], y: &Tensor, dy: &Tensor)
    -> Result<Vec<Option<Tensor>>>;
}

/// The result of a kernel's operation, connected to the graph.
pub(super) fn apply<K: Kernel>(kernel: K, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs: Vec<Tensor> = inputs.iter().map(|x| x.contiguous()).collect::<Result<_>>()?;
    match inputs.as_slice() {
        [a] => a.apply_op1(Op(kernel)),
        [a, b] => a.apply_op2(b, Op(kernel)),
        [a, b, c] => a.apply_op3(b, c, Op(kernel)),
        _ => bail!("{}: one to three tensors are needed", K::NAME),
    }
}

/// A kernel's operation in the form that candle requires.
struct Op<K>(K);

impl<K: Kernel> Op<K> {
    fn values<const N: usize>(&self, inputs: [(&CudaStorage, &Layout); N]) -> Result<(CudaStorage, Shape)> {
        let device = &inputs[0].0.device;
        let inputs = inputs.map(|(storage, layout)| Input { storage, layout });
        self.0.forward(device, &inputs)
    }

    fn gradients(&self, inputs: &[&Tensor], y: &Tensor, dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let device = y.device().as_cuda_device()?;
        self.0.backward(device, inputs, y, &dy.contiguous()?)
    }

    fn not_here<T>(&self) -> Result<T> {
        bail!("{}: this kernel runs on CUDA only", K::NAME)
    }
}

impl<K: Kernel> CustomOp1 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.not_here()
    }

    fn cuda_fwd(&self, a: &CudaStorage, a_layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.values([(a, a_layout)])
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let mut all = self.gradients(&[a], y, dy)?.into_iter();
        Ok(all.next().flatten())
    }
}

impl<K: Kernel> CustomOp2 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.not_here()
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.values([(a, a_layout), (b, b_layout)])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut all = self.gradients(&[a, b], y, dy)?.into_iter();
        Ok((all.next().flatten(), all.next().flatten()))
    }
}

impl<K: Kernel> CustomOp3 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.not_here()
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
        c: &CudaStorage,
        c_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.values([(a, a_layout), (b, b_layout), (c, c_layout)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut all = self.gradients(&[a, b, c], y, dy)?.into_iter();
        let mut next = || all.next().flatten();
        Ok((next(), next(), next()))
    }
}

/// An input of an operation.
pub(super) struct Input<'a> {
    storage: &'a CudaStorage,
    layout: &'a Layout,
}

impl Input<'_> {
    pub(super) fn dims(&self) -> &[usize] {
        self.layout.dims()
    }

    /// The type of the elements.
    pub(super) fn real(&self) -> Real {
        match self.storage.slice {
            CudaStorageSlice::BF16(_) => Real::Bf16,
            _ => Real::F32,
        }
    }

    /// The address of the elements on the device.
    pub(super) fn address(&self) -> Result<u64> {
        address(self.storage, self.layout)
    }
}

/// The element type of `x`.
pub(super) fn real(x: &Tensor) -> Real {
    match x.dtype() {
        DType::BF16 => Real::Bf16,
        _ => Real::F32,
    }
}

/// The type in candle.
pub(super) fn dtype(real: Real) -> DType {
    match real {
        Real::F32 => DType::F32,
        Real::Bf16 => DType::BF16,
    }
}

/// The device address of a contiguous `x`.
pub(super) fn address_of(x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => address(storage, layout),
        _ => bail!("a tensor of shape {:?} is not on a CUDA device", x.dims()),
    }
}

pub(super) fn address(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let Some((start, _)) = layout.contiguous_offsets() else {
        bail!("a tensor of shape {:?} is not contiguous", layout.dims())
    };
    let stream = storage.device.cuda_stream();
    // All work on a device is on one stream, in order, so there is nothing to wait for.
    fn of<T>(
        slice: &CudaSlice<T>,
        stream: &std::sync::Arc<candle_core::cuda_backend::cudarc::driver::CudaStream>,
        start: usize,
    ) -> u64 {
        slice.device_ptr(stream).0 + (start * size_of::<T>()) as u64
    }
    Ok(match &storage.slice {
        CudaStorageSlice::F32(slice) => of(slice, &stream, start),
        CudaStorageSlice::BF16(slice) => of(slice, &stream, start),
        CudaStorageSlice::F64(slice) => of(slice, &stream, start),
        CudaStorageSlice::U8(slice) => of(slice, &stream, start),
        CudaStorageSlice::U32(slice) => of(slice, &stream, start),
        _ => bail!("a tensor of shape {:?} has a type that no kernel supports", layout.dims()),
    })
}

/// Uninitialised memory for `n` elements, f32 or bf16, and its address.
pub(super) fn room(device: &CudaDevice, dtype: DType, n: usize) -> Result<(CudaStorage, u64)> {
    fn of<T: DeviceRepr + CudaDType>(device: &CudaDevice, n: usize) -> Result<CudaStorage> {
        // SAFETY: a kernel writes all of it before it is read.
        let slice = unsafe { device.alloc::<T>(n)? };
        Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
    }
    let storage = match dtype {
        DType::F32 => of::<f32>(device, n)?,
        DType::BF16 => of::<bf16>(device, n)?,
        DType::F64 => of::<f64>(device, n)?,
        _ => bail!("there are no kernels for type {dtype:?}"),
    };
    let at = address(&storage, &Layout::contiguous(n))?;
    Ok((storage, at))
}

/// An uninitialised tensor and its address.
pub(super) fn empty(device: &CudaDevice, dtype: DType, shape: &Shape) -> Result<(Tensor, u64)> {
    let (storage, at) = room(device, dtype, shape.elem_count())?;
    Ok((tensor(storage, shape), at))
}

/// A tensor outside the graph.
pub(super) fn tensor(storage: CudaStorage, shape: &Shape) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape.clone(), BackpropOp::none(), false)
}

/// Makes the device perform `launches` in order, after all earlier work.
pub(super) fn launch(device: &CudaDevice, launches: &[Launch]) -> Result<()> {
    let stream = device.cuda_stream();
    for it in launches {
        let function = module::function(device, it.kernel)?;
        let mut builder = stream.launch_builder(&function);
        for argument in &it.arguments {
            match argument {
                Argument::Pointer(x) | Argument::U64(x) => builder.arg(x),
                Argument::U32(x) => builder.arg(x),
                Argument::F32(x) => builder.arg(x),
                Argument::F64(x) => builder.arg(x),
            };
        }
        let config = LaunchConfig {
            grid_dim: (it.blocks.0, it.blocks.1, 1),
            block_dim: (it.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the plans pass each kernel the arguments that it declares, and addresses of memory as large as it
        // expects; the tests run all of them with guards around that memory.
        unsafe { builder.launch(config) }.w()?;
    }
    Ok(())
}
