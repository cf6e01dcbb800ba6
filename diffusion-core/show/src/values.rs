//! The numbers that a plot accepts: slices, vectors, arrays, ranges and tensors, of any number type.

use candle_core::{DType, Device, Result, Tensor};

/// A number type that a plot accepts.
pub trait Number: Copy {
    /// The same number, or the nearest f64.
    fn to_f64(self) -> f64;
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn to_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}
numbers!(f32 f64 u8 u16 u32 u64 usize i8 i16 i32 i64 isize);

/// A sequence of numbers that a plot accepts, by value or by reference: a `Vec`, slice, array, `0..1000` or a tensor.
///
/// ```
/// use diffusion_core::show::Values;
/// assert_eq!((0..3usize).to_vec_f64()?, [0.0, 1.0, 2.0]);
/// assert_eq!([0.5f32, 1.0].to_vec_f64()?, [0.5, 1.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub trait Values {
    /// All values in order; for a tensor in row-major order, whatever its rank.
    ///
    /// # Errors
    /// A tensor cannot be copied from its device.
    fn to_vec_f64(&self) -> Result<Vec<f64>>;
}

impl<T: Number> Values for [T] {
    fn to_vec_f64(&self) -> Result<Vec<f64>> {
        Ok(self.iter().map(|v| v.to_f64()).collect())
    }
}

impl<T: Number, const N: usize> Values for [T; N] {
    fn to_vec_f64(&self) -> Result<Vec<f64>> {
        self.as_slice().to_vec_f64()
    }
}

impl<T: Number> Values for Vec<T> {
    fn to_vec_f64(&self) -> Result<Vec<f64>> {
        self.as_slice().to_vec_f64()
    }
}

impl<T: Number> Values for std::ops::Range<T>
where
    Self: Iterator<Item = T> + Clone,
{
    fn to_vec_f64(&self) -> Result<Vec<f64>> {
        Ok(self.clone().map(T::to_f64).collect())
    }
}

impl Values for Tensor {
    fn to_vec_f64(&self) -> Result<Vec<f64>> {
        // On the CPU, since not every device has f64.
        let x = self.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        x.flatten_all()?.to_vec1()
    }
}

impl<V: Values + ?Sized> Values for &V {
    fn to_vec_f64(&self) -> Result<Vec<f64>> {
        (**self).to_vec_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn every_kind_of_sequence_gives_the_same_numbers() -> Result<()> {
        let want = vec![0.0, 1.0, 2.0, 3.0];
        let tensor = Tensor::arange(0f32, 4.0, &Device::Cpu)?.reshape((2, 2))?;
        assert_eq!(tensor.to_vec_f64()?, want);
        assert_eq!(tensor.t()?.to_vec_f64()?, [0.0, 2.0, 1.0, 3.0]);
        assert_eq!((0..4u32).to_vec_f64()?, want);
        assert_eq!(vec![0u8, 1, 2, 3].to_vec_f64()?, want);
        assert_eq!([0i64, 1, 2, 3][..].to_vec_f64()?, want);
        Ok(())
    }
}
