//! A grid: a batch of images as one picture. It is drawn in `sheet.rs`.

use candle_core::{DType, Result, Tensor, bail};

/// A grid of images with titles around them.
///
/// Values are expected in −1 … 1, from black to white. The builder methods take and return the grid; invalid arguments,
/// such as a wrong number of titles, are reported when the grid is drawn.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use diffusion_core::show::Grid;
/// let x = Tensor::randn(0f32, 1.0, (3, 1, 28, 28), &Device::Cpu)?;
/// let grid = Grid::new(&x)?.titles(["t = 0", "t = 500", "t = 999"]);
/// assert_eq!(&grid.to_png()?[1..4], b"PNG");
/// let wrong = Grid::new(&x)?.titles(["t = 0"]).to_png().unwrap_err();
/// assert_eq!(wrong.to_string(), "titles: 1 given for 3 images");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Grid {
    pub(super) tiles: Vec<Tile>,
    /// The number of tiles in each row, if the tensors determine it.
    pub(super) rows: Option<Vec<usize>>,
    /// The height and width of every tile, before enlarging.
    pub(super) tile_size: (usize, usize),
    pub(super) columns: Option<usize>,
    pub(super) titles: Option<Vec<String>>,
    pub(super) row_titles: Option<Vec<String>>,
    pub(super) column_titles: Option<Vec<String>>,
    pub(super) title: String,
    pub(super) caption: String,
    pub(super) scale: Option<usize>,
    pub(super) gap: usize,
    pub(super) range: Range,
}

/// The values of one image, (C, H, W) with 1 or 3 channels.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    pub(super) channels: usize,
    pub(super) values: Vec<f32>,
}

/// How values are mapped to shades.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Range {
    /// −1 is black and 1 is white; values outside are clipped.
    #[default]
    Clamp,
    /// The smallest value of all images is black and the largest white; the caption states these values.
    Stretch,
}

impl Range {
    /// [`Range::Clamp`], or [`Range::Stretch`] if values in −1 … 1 would show little: if they span less than a quarter
    /// of it or exceed ±2. This happens with a network that has hardly been trained.
    ///
    /// # Errors
    /// The images are not floating-point, or there are none.
    pub fn fitting(images: &Tensor) -> anyhow::Result<Self> {
        let values = images.flatten_all()?.to_dtype(candle_core::DType::F32)?;
        let low = values.min(0)?.to_scalar::<f32>()?;
        let high = values.max(0)?.to_scalar::<f32>()?;
        let seen = high - low >= 0.5 && low >= -2.0 && high <= 2.0;
        Ok(if seen { Self::Clamp } else { Self::Stretch })
    }
}

impl Grid {
    /// Creates a grid of the images of a tensor.
    ///
    /// # Shapes
    /// (N, C, H, W), or (C, H, W) for one image; C is 1 (greyscale) or 3 (RGB). Any floating-point type and device.
    ///
    /// # Errors
    /// The rank, the number of channels or the type is not supported, or there are no pixels.
    pub fn new(images: &Tensor) -> Result<Self> {
        let (tiles, tile_size) = tiles("images", images)?;
        Ok(Self::of(tiles, None, tile_size))
    }

    /// Creates a grid with one row of images for each tensor. Rows may differ in length.
    ///
    /// # Shapes
    /// Each (N, C, H, W) or (C, H, W) as for [`Grid::new`], all with the same H and W.
    ///
    /// # Errors
    /// See [`Grid::new`]; or there is no tensor, or the images differ in size.
    pub fn rows(rows: &[Tensor]) -> Result<Self> {
        let (mut all, mut lengths, mut size) = (Vec::new(), Vec::new(), None);
        for (i, row) in rows.iter().enumerate() {
            let (tiles, (h, w)) = tiles(&format!("rows[{i}]"), row)?;
            let (first_h, first_w) = *size.get_or_insert((h, w));
            if (h, w) != (first_h, first_w) {
                bail!(
                    "rows[{i}]: images of {h} × {w}, but those of rows[0] are {first_h} × {first_w}; resize one of them"
                )
            }
            lengths.push(tiles.len());
            all.extend(tiles);
        }
        match size {
            Some(size) => Ok(Self::of(all, Some(lengths), size)),
            None => bail!("rows: there are no tensors to show"),
        }
    }

    fn of(tiles: Vec<Tile>, rows: Option<Vec<usize>>, tile_size: (usize, usize)) -> Self {
        Self {
            tiles,
            rows,
            tile_size,
            columns: None,
            titles: None,
            row_titles: None,
            column_titles: None,
            title: String::new(),
            caption: String::new(),
            scale: None,
            gap: 4,
            range: Range::Clamp,
        }
    }

    /// Sets the number of images in a row. By default the picture gets a good shape.
    pub fn columns(mut self, n: usize) -> Self {
        self.columns = Some(n);
        self
    }

    /// Sets a title above each image, in order.
    pub fn titles(mut self, titles: impl IntoIterator<Item = impl ToString>) -> Self {
        self.titles = Some(strings(titles));
        self
    }

    /// Sets a title to the left of each row.
    pub fn row_titles(mut self, titles: impl IntoIterator<Item = impl ToString>) -> Self {
        self.row_titles = Some(strings(titles));
        self
    }

    /// Sets a title above each column.
    pub fn column_titles(mut self, titles: impl IntoIterator<Item = impl ToString>) -> Self {
        self.column_titles = Some(strings(titles));
        self
    }

    /// Sets a line above the grid.
    pub fn title(mut self, text: impl Into<String>) -> Self {
        self.title = text.into();
        self
    }

    /// Sets a line below the grid.
    pub fn caption(mut self, text: impl Into<String>) -> Self {
        self.caption = text.into();
        self
    }

    /// Shows each pixel as a square of `k` × `k`. By default images become about 80 pixels wide.
    pub fn scale(mut self, k: usize) -> Self {
        self.scale = Some(k);
        self
    }

    /// Sets the space between images, in pixels of the picture. Default: 4.
    pub fn gap(mut self, pixels: usize) -> Self {
        self.gap = pixels;
        self
    }

    /// Sets how values are mapped to shades.
    pub fn range(mut self, range: Range) -> Self {
        self.range = range;
        self
    }
}

fn strings(titles: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
    titles.into_iter().map(|t| t.to_string()).collect()
}

fn tiles(name: &str, images: &Tensor) -> Result<(Vec<Tile>, (usize, usize))> {
    let (n, c, h, w) = match *images.dims() {
        [n, c, h, w] => (n, c, h, w),
        [c, h, w] => (1, c, h, w),
        _ => bail!("{name}: shape {:?}; use (N, C, H, W), or (C, H, W) for one image", images.dims()),
    };
    if c != 1 && c != 3 {
        bail!("{name}: {c} channels in shape {:?}; use 1 (grey) or 3 (red, green, blue)", images.dims())
    }
    if n * h * w == 0 {
        bail!("{name}: shape {:?} holds no pixels", images.dims())
    }
    if !images.dtype().is_float() {
        bail!("{name}: type {:?}; use floating-point values in -1 … 1", images.dtype())
    }
    let values = images.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let tile = |values: &[f32]| Tile { channels: c, values: values.to_vec() };
    Ok((values.chunks_exact(c * h * w).map(tile).collect(), (h, w)))
}
