//! Convolutions and their two gradients by cuDNN.
//!
//! The library is loaded when it is first needed instead of being linked, so a program built for CUDA starts without
//! it. For each problem cuDNN's heuristics choose the algorithm once, among those with bitwise reproducible results.
//! Its descriptors are kept, and one workspace serves all.

mod library;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtrMut};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{Error, Result, bail};
use library::{Candidate, Library, Pass};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

/// The largest workspace of an algorithm.
const WORKSPACE: usize = 1 << 30;

/// The types of elements and products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::ops) enum Arithmetic {
    /// f32 throughout.
    F32,
    /// f32, with products rounded to TF32.
    Tf32,
    /// bf16, with f32 sums.
    Bf16,
}

impl Arithmetic {
    fn data_type(self) -> c_int {
        match self {
            Self::F32 | Self::Tf32 => library::FLOAT,
            Self::Bf16 => library::BFLOAT16,
        }
    }

    /// The math type for cuDNN, whose default uses TF32 for f32.
    fn math(self) -> c_int {
        match self {
            Self::F32 => library::FMA_MATH,
            Self::Tf32 => library::DEFAULT_MATH,
            Self::Bf16 => library::TENSOR_OP_MATH,
        }
    }
}

/// A convolution: x (B, C, H, W), weight (O, C, K, L), y (B, O, H', W'), all contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::ops) struct Convolution {
    pub(in crate::ops) arithmetic: Arithmetic,
    pub(in crate::ops) x: [usize; 4],
    pub(in crate::ops) weight: [usize; 4],
    pub(in crate::ops) y: [usize; 4],
    pub(in crate::ops) stride: usize,
    pub(in crate::ops) padding: usize,
}

impl Convolution {
    /// y = x ∗ weight. Takes the device addresses of all three.
    pub(in crate::ops) fn forward(self, device: &CudaDevice, x: u64, weight: u64, y: u64) -> Result<()> {
        self.run(Pass::Forward, device, x, weight, y)
    }

    /// dx from weight and dy.
    pub(in crate::ops) fn input_gradient(self, device: &CudaDevice, weight: u64, dy: u64, dx: u64) -> Result<()> {
        self.run(Pass::Data, device, dx, weight, dy)
    }

    /// dweight from x and dy.
    pub(in crate::ops) fn weight_gradient(self, device: &CudaDevice, x: u64, dy: u64, dweight: u64) -> Result<()> {
        self.run(Pass::Filter, device, x, dweight, dy)
    }

    fn run(self, pass: Pass, device: &CudaDevice, x: u64, weight: u64, y: u64) -> Result<()> {
        HANDLES.with_borrow_mut(|handles| {
            let handle = match handles.entry(device.id()) {
                std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
                std::collections::hash_map::Entry::Vacant(none) => none.insert(Handle::new(device)?),
            };
            handle.run(self, pass, x, weight, y)
        })
    }
}

thread_local! {
    /// A handle may only be used by one thread.
    static HANDLES: RefCell<HashMap<DeviceId, Handle>> = RefCell::default();
}

/// cuDNN on one device, for one thread.
struct Handle {
    library: Arc<Library>,
    handle: *mut c_void,
    device: CudaDevice,
    problems: HashMap<Convolution, Problem>,
    workspace: Option<CudaSlice<u8>>,
}

/// The descriptors of a convolution, and the algorithm of each pass once it has been chosen.
struct Problem {
    x: *mut c_void,
    weight: *mut c_void,
    y: *mut c_void,
    convolution: *mut c_void,
    chosen: [Option<Candidate>; 3],
}

impl Handle {
    fn new(device: &CudaDevice) -> Result<Self> {
        let library = Library::open()?;
        let mut handle = null_mut();
        library.check("cudnnCreate", unsafe { (library.create)(&mut handle) })?;
        let stream = device.cuda_stream().cu_stream().cast();
        let made = Self { handle, device: device.clone(), problems: HashMap::new(), workspace: None, library };
        // SAFETY: the handle has just been created, and the stream lives as long as the device, of which `made` keeps a
        // clone.
        let status = unsafe { (made.library.set_stream)(handle, stream) };
        made.library.check("cudnnSetStream", status)?;
        Ok(made)
    }

    fn run(&mut self, of: Convolution, pass: Pass, x: u64, weight: u64, y: u64) -> Result<()> {
        if !self.problems.contains_key(&of) {
            let problem = Problem::new(&self.library, of)?;
            self.problems.insert(of, problem);
        }
        let Some(problem) = self.problems.get_mut(&of) else { bail!("cudnn: a problem was lost") };
        let candidate = match problem.chosen[pass as usize] {
            Some(candidate) => candidate,
            None => {
                let candidate = problem.choose(&self.library, self.handle, of, pass)?;
                problem.chosen[pass as usize] = Some(candidate);
                candidate
            }
        };
        let stream = self.device.cuda_stream();
        if self.workspace.as_ref().map_or(0, |it| it.len()) < candidate.memory {
            self.workspace = None;
            // SAFETY: cuDNN writes to its workspace before it reads from it.
            self.workspace = Some(unsafe { self.device.alloc::<u8>(candidate.memory)? });
        }
        let workspace = match &mut self.workspace {
            Some(slice) => slice.device_ptr_mut(&stream).0,
            None => 0,
        };
        let library = &self.library;
        let math = unsafe { (library.set_math_type)(problem.convolution, candidate.math) };
        library.check("cudnnSetConvolutionMathType", math)?;
        let (one, zero) = (1f32, 0f32);
        let (one, zero) = (std::ptr::from_ref(&one).cast(), std::ptr::from_ref(&zero).cast());
        let (x, weight, y) = (x as *mut c_void, weight as *mut c_void, y as *mut c_void);
        let (algo, space, size) = (candidate.algorithm, workspace as *mut c_void, candidate.memory);
        // SAFETY: the descriptors describe the data at the three addresses, which the caller has allocated; the
        // workspace is as large as the algorithm requires; the scaling factors are f32, as required for f32 and bf16.
        let status = unsafe {
            match pass {
                Pass::Forward => (library.forward)(
                    self.handle,
                    one,
                    problem.x,
                    x,
                    problem.weight,
                    weight,
                    problem.convolution,
                    algo,
                    space,
                    size,
                    zero,
                    problem.y,
                    y,
                ),
                Pass::Data => (library.backward_data)(
                    self.handle,
                    one,
                    problem.weight,
                    weight,
                    problem.y,
                    y,
                    problem.convolution,
                    algo,
                    space,
                    size,
                    zero,
                    problem.x,
                    x,
                ),
                Pass::Filter => (library.backward_filter)(
                    self.handle,
                    one,
                    problem.x,
                    x,
                    problem.y,
                    y,
                    problem.convolution,
                    algo,
                    space,
                    size,
                    zero,
                    problem.weight,
                    weight,
                ),
            }
        };
        library.check(pass.name(), status)
    }
}

impl Problem {
    fn new(library: &Library, of: Convolution) -> Result<Self> {
        let four = |shape: [usize; 4]| -> Result<[c_int; 4]> {
            let mut four = [0; 4];
            for (to, from) in four.iter_mut().zip(shape) {
                *to = c_int::try_from(from).map_err(|_| Error::msg(format!("cudnn: {shape:?} is too large")))?;
            }
            Ok(four)
        };
        let (x, weight, y) = (four(of.x)?, four(of.weight)?, four(of.y)?);
        let [stride, padding, ..] = four([of.stride, of.padding, 0, 0])?;
        let mut made =
            Self { x: null_mut(), weight: null_mut(), y: null_mut(), convolution: null_mut(), chosen: [None; 3] };
        let (kind, nchw) = (of.arithmetic.data_type(), library::NCHW);
        // SAFETY: each descriptor is created before it is filled in. They are never destroyed: there is one for each
        // shape, as long as the thread runs.
        unsafe {
            for (tensor, [n, c, h, w]) in [(&mut made.x, x), (&mut made.y, y)] {
                library.check("cudnnCreateTensorDescriptor", (library.create_tensor)(tensor))?;
                let set = (library.set_tensor)(*tensor, nchw, kind, n, c, h, w);
                library.check("cudnnSetTensor4dDescriptor", set)?;
            }
            library.check("cudnnCreateFilterDescriptor", (library.create_filter)(&mut made.weight))?;
            let [o, c, k, l] = weight;
            let set = (library.set_filter)(made.weight, kind, nchw, o, c, k, l);
            library.check("cudnnSetFilter4dDescriptor", set)?;
            library.check("cudnnCreateConvolutionDescriptor", (library.create_convolution)(&mut made.convolution))?;
            let (correlation, compute) = (library::CROSS_CORRELATION, library::FLOAT);
            let set = (library.set_convolution)(
                made.convolution,
                padding,
                padding,
                stride,
                stride,
                1,
                1,
                correlation,
                compute,
            );
            library.check("cudnnSetConvolution2dDescriptor", set)?;
        }
        Ok(made)
    }

    /// The first of cuDNN's candidates with bitwise reproducible results.
    fn choose(&self, library: &Library, handle: *mut c_void, of: Convolution, pass: Pass) -> Result<Candidate> {
        let math = unsafe { (library.set_math_type)(self.convolution, of.arithmetic.math()) };
        library.check("cudnnSetConvolutionMathType", math)?;
        let mut found = [Candidate::default(); 8];
        let (mut count, most) = (0, found.len() as c_int);
        // SAFETY: all descriptors are filled in, and there is space for the requested number of candidates.
        let status = unsafe {
            let at = found.as_mut_ptr();
            let Self { x, weight, y, convolution, .. } = *self;
            match pass {
                Pass::Forward => (library.forward_algorithms)(handle, x, weight, convolution, y, most, &mut count, at),
                Pass::Data => (library.data_algorithms)(handle, weight, y, convolution, x, most, &mut count, at),
                Pass::Filter => (library.filter_algorithms)(handle, x, y, convolution, weight, most, &mut count, at),
            }
        };
        library.check("cudnnGetConvolution…Algorithm_v7", status)?;
        let exact = of.arithmetic == Arithmetic::F32;
        let found = found.iter().take(count.max(0) as usize);
        let mut usable = found.filter(|it| {
            it.status == library::SUCCESS && it.determinism == library::DETERMINISTIC && it.memory <= WORKSPACE
        });
        match usable.next() {
            Some(it) => Ok(Candidate { math: if exact { library::FMA_MATH } else { it.math }, ..*it }),
            None => bail!("cudnn: {} has no algorithm for {of:?}", pass.name()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it was created by cudnnCreate. Its status is no longer of use.
        unsafe { (self.library.destroy)(self.handle) };
    }
}
