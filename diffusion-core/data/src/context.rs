//! Context vectors: the attributes of images, or their classes as one-hot vectors.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use candle_core::{Device, Tensor};

use super::Dataset;
use super::pixels::gather;

/// The attributes of all images.
#[derive(Clone)]
pub(super) struct Attributes {
    /// (N, K).
    values: Arc<[f32]>,
    names: Arc<[String]>,
}

impl Attributes {
    /// Those of these images.
    pub(super) fn select(&self, indices: &[usize]) -> Self {
        Self { values: gather(&self.values, indices, self.names.len()).into(), names: self.names.clone() }
    }
}

impl Dataset {
    /// Adds K attributes to every image, on which a model can be conditioned: 1 if an image has it, −1 if not, 0 if that
    /// is not known, or any other number.
    ///
    /// `values` are (N, K) in row-major order; `names` are K different names.
    ///
    /// ```
    /// use diffusion_core::{candle::Device, data::Dataset};
    /// let dots = Dataset::from_u8("dots", vec![0, 255], [1, 1, 1], vec![0, 0], &["dot"])?;
    /// let dots = dots.with_attributes(vec![-1.0, 1.0], &["bright"])?;
    /// assert_eq!(dots.context([1], &Device::Cpu)?.to_vec2::<f32>()?, [[1.0]]);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// There is no name, or two are equal; there are not K values for each image, or one is not finite.
    pub fn with_attributes(self, values: Vec<f32>, names: &[&str]) -> Result<Self> {
        let (n, k) = (self.len(), names.len());
        ensure!(k > 0, "{}: the attributes have no names", self.name);
        let mut known = HashSet::new();
        if let Some(name) = names.iter().find(|name| !known.insert(**name)) {
            bail!("{}: two attributes are called {name:?}; give each its own name", self.name)
        }
        ensure!(
            n.checked_mul(k) == Some(values.len()),
            "{}: there are {} attribute values for {n} images and {k} names; give one for each image and name",
            self.name,
            values.len()
        );
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            bail!("{}: the attribute {:?} of image {} is {}", self.name, names[i % k], i / k, values[i])
        }
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(Self { attributes: Some(Attributes { values: values.into(), names }), ..self })
    }

    /// The names of the attributes; empty if there are none.
    pub fn attribute_names(&self) -> &[String] {
        self.attributes.as_ref().map_or(&[], |attributes| &attributes.names)
    }

    /// The attributes of all images, (N, K) in row-major order; empty if there are none.
    pub fn attributes(&self) -> &[f32] {
        self.attributes.as_ref().map_or(&[], |attributes| &attributes.values)
    }

    /// The names of the values of [`Dataset::context`]: those of the attributes, or otherwise the classes.
    pub fn context_names(&self) -> &[String] {
        match self.attribute_names() {
            [] => &self.class_names,
            names => names,
        }
    }

    /// The context vectors of a conditional model for the images with these indices: their attributes, or otherwise their
    /// classes as one-hot vectors.
    ///
    /// # Shapes
    /// (B, K) f32 for B `indices` and K [`Dataset::context_names`].
    ///
    /// # Errors
    /// See [`Dataset::images`].
    pub fn context(&self, indices: impl IntoIterator<Item = usize>, device: &Device) -> Result<Tensor> {
        let (indices, k) = (self.checked(indices)?, self.context_names().len());
        let values = match &self.attributes {
            Some(attributes) => gather(&attributes.values, &indices, k),
            None => {
                let mut values = vec![0f32; indices.len() * k];
                for (row, i) in values.chunks_mut(k).zip(&indices) {
                    row[self.labels[*i] as usize] = 1.0;
                }
                values
            }
        };
        Ok(Tensor::from_vec(values, (indices.len(), k), device)?)
    }
}
