//! The subset of Python's pickle format that state dicts use.
//!
//! A pickle is a program for a stack machine. It pushes constants, builds tuples and dicts from the top of the stack,
//! and calls Python functions, three of which are supported here. Values are shared, not copied, and the nesting of
//! tuples is limited, so memory and time are proportional to the length of the program.

use anyhow::{Context, Result, bail, ensure};
use candle_core::DType;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// The largest nesting of tuples; those of a tensor are nested.
const DEEPEST: usize = 8;

/// The location of a tensor's elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub(super) storage: Rc<Storage>,
    /// The index of the first element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A file of tensor elements.
#[derive(Debug, PartialEq)]
pub(super) struct Storage {
    /// `None` for integers.
    pub(super) dtype: Option<DType>,
    pub(super) key: String,
    pub(super) numbers: usize,
}

type Dict = Rc<RefCell<Contents>>;

/// The named entries of a dict, as far as tensors are built from them.
#[derive(Debug, Default)]
struct Contents {
    tensors: BTreeMap<String, View>,
    dicts: Vec<(String, Dict)>,
}

/// Named tensors, and the name of the entry that held them, if there were others.
#[derive(Debug)]
pub(super) struct StateDict {
    pub(super) tensors: BTreeMap<String, View>,
    pub(super) entry: Option<String>,
}

#[derive(Clone)]
enum Value {
    Mark,
    /// A value that is not needed for tensors.
    Other,
    Whole(i64),
    Text(Rc<str>),
    /// Module and name.
    Class(Rc<str>),
    Tuple(Rc<Vec<Value>>, usize),
    Storage(Rc<Storage>),
    Tensor(Rc<View>),
    /// The tensors of a dict.
    Dict(Dict),
}

/// The named tensors of a pickled dict, or of the only dict in it that contains tensors; training scripts often save
/// one next to the optimiser's state.
pub(super) fn state_dict(pickle: &[u8]) -> Result<StateDict> {
    let mut machine = Machine { program: pickle, stack: Vec::new(), memo: HashMap::new() };
    let Value::Dict(dict) = machine.run().context("data.pkl of the archive")? else {
        bail!("it is not a state dict, which would hold tensors by name")
    };
    let Contents { tensors, dicts } = &*dict.borrow();
    if !tensors.is_empty() {
        return Ok(StateDict { tensors: tensors.clone(), entry: None });
    }
    let inner = |(name, dict): &(String, Dict)| {
        // A dict that contains itself is borrowed already.
        let tensors = dict.try_borrow().ok()?.tensors.clone();
        (!tensors.is_empty()).then(|| StateDict { tensors, entry: Some(name.clone()) })
    };
    let mut found: Vec<StateDict> = dicts.iter().filter_map(inner).collect();
    let names: Vec<&str> = found.iter().filter_map(|found| found.entry.as_deref()).collect();
    ensure!(
        found.len() < 2,
        "it holds several state dicts: {}; save one of them in Python: torch.save(torch.load(path)[\"{}\"], \
         \"weights.pth\")",
        names.join(", "),
        names[0]
    );
    found.pop().context("it is not a state dict: it holds no tensors by name")
}

struct Machine<'a> {
    program: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value> {
        loop {
            let code = self.take(1)?[0];
            match code {
                // PROTO
                0x80 => {
                    let version = self.take(1)?[0];
                    ensure!(version <= 2, "pickle protocol {version}; PyTorch uses 2");
                }
                b'.' => return self.pop(),
                b'(' => self.stack.push(Value::Mark),
                // None, True, False
                b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
                b'K' => self.whole::<1>()?,
                b'M' => self.whole::<2>()?,
                b'J' => {
                    let bytes = self.bytes::<4>()?;
                    self.stack.push(Value::Whole(i32::from_le_bytes(bytes).into()));
                }
                // LONG1
                0x8a => {
                    let length = self.take(1)?[0];
                    let bytes = self.take(length.into())?;
                    ensure!(bytes.len() <= 8, "an integer of {length} bytes, which is too long");
                    let fill = if bytes.last().is_some_and(|b| *b > 127) { 255 } else { 0 };
                    let mut all = [fill; 8];
                    all[..bytes.len()].copy_from_slice(bytes);
                    self.stack.push(Value::Whole(i64::from_le_bytes(all)));
                }
                // BINFLOAT
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Other);
                }
                // BINUNICODE
                b'X' => {
                    let length = u32::from_le_bytes(self.bytes()?);
                    let text = std::str::from_utf8(self.take(length as usize)?)?;
                    self.stack.push(Value::Text(text.into()));
                }
                // GLOBAL
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.stack.push(Value::Class(format!("{module}.{name}").into()));
                }
                b')' => self.tuple(Vec::new())?,
                b't' => {
                    let items = self.since_mark()?;
                    self.tuple(items)?;
                }
                0x85..=0x87 => {
                    let items = self.last((code - 0x84).into())?;
                    self.tuple(items)?;
                }
                b'}' => self.stack.push(Value::Dict(Dict::default())),
                // Lists are not needed.
                b']' => self.stack.push(Value::Other),
                b'a' => drop(self.pop()?),
                b'e' => drop(self.since_mark()?),
                b's' => {
                    let items = self.last(2)?;
                    self.set(items)?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set(items)?;
                }
                b'q' => {
                    let at = self.take(1)?[0];
                    self.remember(at.into())?;
                }
                b'r' => {
                    let at = u32::from_le_bytes(self.bytes()?);
                    self.remember(at)?;
                }
                b'h' => {
                    let at = self.take(1)?[0];
                    self.recall(at.into())?;
                }
                b'j' => {
                    let at = u32::from_le_bytes(self.bytes()?);
                    self.recall(at)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.stack.push(Value::Storage(storage(&id)?.into()));
                }
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.stack.push(call(&function, &arguments)?);
                }
                // BUILD, which sets attributes of a dict.
                b'b' => drop(self.pop()?),
                // NEWOBJ
                0x81 => bail!(
                    "it holds a Python object, such as a whole module; save the state dict in Python: \
                     torch.save(net.state_dict(), \"weights.pth\")"
                ),
                _ => bail!("instruction {code:#04x}, which is not part of a state dict"),
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.program.split_at_checked(length) else { bail!("it is truncated") };
        self.program = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String> {
        let end = self.program.iter().position(|b| *b == b'\n');
        let line = self.take(end.context("it is truncated")?)?;
        let line = std::str::from_utf8(line)?.to_owned();
        self.take(1)?;
        Ok(line)
    }

    fn whole<const N: usize>(&mut self) -> Result<()> {
        let bytes = self.bytes::<N>()?;
        let number = bytes.iter().rev().fold(0, |n, b| n << 8 | i64::from(*b));
        self.stack.push(Value::Whole(number));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().context("it pops from an empty stack")
    }

    fn last(&mut self, n: usize) -> Result<Vec<Value>> {
        let from = self.stack.len().checked_sub(n);
        Ok(self.stack.split_off(from.context("it pops from an empty stack")?))
    }

    fn since_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.stack.iter().rposition(|v| matches!(v, Value::Mark));
        let items = self.stack.split_off(mark.context("a mark is missing")? + 1);
        self.stack.pop();
        Ok(items)
    }

    fn tuple(&mut self, items: Vec<Value>) -> Result<()> {
        let depth = |v: &Value| match v {
            Value::Tuple(_, depth) => depth + 1,
            _ => 1,
        };
        let depth = items.iter().map(depth).max().unwrap_or(1);
        ensure!(depth <= DEEPEST, "tuples nested {depth} deep");
        self.stack.push(Value::Tuple(items.into(), depth));
        Ok(())
    }

    /// Adds alternating keys and values to the dict on top of the stack.
    fn set(&mut self, items: Vec<Value>) -> Result<()> {
        let Some(Value::Dict(dict)) = self.stack.last() else { bail!("entries for a value that is not a dict") };
        for pair in items.chunks(2) {
            match pair {
                [Value::Text(name), Value::Tensor(view)] => {
                    dict.borrow_mut().tensors.insert(name.to_string(), View::clone(view));
                }
                [Value::Text(name), Value::Dict(inner)] => {
                    dict.borrow_mut().dicts.push((name.to_string(), inner.clone()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn remember(&mut self, at: u32) -> Result<()> {
        let value = self.stack.last().context("it pops from an empty stack")?;
        self.memo.insert(at, value.clone());
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<()> {
        let value = self.memo.get(&at).context("it reads a value that it has not stored")?;
        self.stack.push(value.clone());
        Ok(())
    }
}

/// Parses ("storage", class, name, device, number of elements).
fn storage(id: &Value) -> Result<Storage> {
    let Value::Tuple(id, _) = id else { bail!("a storage without a description") };
    let [_, Value::Class(class), Value::Text(key), _, Value::Whole(numbers)] = id.as_slice() else {
        bail!("a storage with an unknown description")
    };
    let dtype = match &**class {
        "torch.FloatStorage" => Some(DType::F32),
        "torch.DoubleStorage" => Some(DType::F64),
        "torch.HalfStorage" => Some(DType::F16),
        "torch.BFloat16Storage" => Some(DType::BF16),
        "torch.LongStorage" | "torch.IntStorage" | "torch.ShortStorage" | "torch.CharStorage" | "torch.ByteStorage"
        | "torch.BoolStorage" => None,
        _ => bail!("elements of type {class}, which is not supported"),
    };
    Ok(Storage { dtype, key: key.to_string(), numbers: usize::try_from(*numbers)? })
}

/// The result of a Python function.
fn call(function: &Value, arguments: &Value) -> Result<Value> {
    let (Value::Class(function), Value::Tuple(arguments, _)) = (function, arguments) else {
        bail!("a call of a value that is not a function")
    };
    match (&**function, arguments.as_slice()) {
        ("collections.OrderedDict", []) => Ok(Value::Dict(Dict::default())),
        (
            "torch._utils._rebuild_tensor_v2",
            [Value::Storage(storage), Value::Whole(offset), Value::Tuple(shape, _), Value::Tuple(strides, _), ..],
        ) => Ok(Value::Tensor(Rc::new(View {
            storage: storage.clone(),
            offset: usize::try_from(*offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        }))),
        ("torch._utils._rebuild_parameter", [tensor @ Value::Tensor(_), ..]) => Ok(tensor.clone()),
        (function, _) => bail!("it calls {function}, which is not part of a state dict"),
    }
}

fn sizes(values: &[Value]) -> Result<Vec<usize>> {
    let size = |value: &Value| match value {
        Value::Whole(n) => Ok(usize::try_from(*n)?),
        _ => bail!("a size that is not an integer"),
    };
    values.iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// {"w": a tensor of shape (2, 3) from the fifth of 11 elements on}, as shown by `pickletools`.
    fn program() -> Vec<u8> {
        let mut p = b"\x80\x02}q\x00X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\nq\x01(".to_vec();
        p.extend(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000");
        p.extend(b"X\x06\x00\x00\x00cuda:0K\x0btQK\x05K\x02K\x03\x86K\x03K\x01\x86\x89");
        p.extend(b"ccollections\nOrderedDict\n)RtRs.");
        p
    }

    fn fails(program: &[u8]) -> String {
        format!("{:#}", state_dict(program).unwrap_err())
    }

    #[test]
    fn a_tensor_is_part_of_a_storage() -> Result<()> {
        let found = state_dict(&program())?.tensors;
        let want = View {
            storage: Rc::new(Storage { dtype: Some(DType::F32), key: "0".to_owned(), numbers: 11 }),
            offset: 5,
            shape: vec![2, 3],
            strides: vec![3, 1],
        };
        assert_eq!(found, BTreeMap::from([("w".to_owned(), want)]));
        Ok(())
    }

    /// {"epoch": 3, "model": …}, as saved by training scripts; with an additional "ema" the choice is ambiguous.
    #[test]
    fn the_only_inner_dict_is_used() -> Result<()> {
        let inner = &program()[2..program().len() - 1];
        let entry = |name: &str| [b"X", &(name.len() as u32).to_le_bytes()[..], name.as_bytes()].concat();
        let file = |names: &[&str]| {
            let mut p = [b"\x80\x02}".to_vec(), entry("epoch"), b"K\x03s".to_vec()].concat();
            names.iter().for_each(|name| p.extend([entry(name), inner.to_vec(), b"s".to_vec()].concat()));
            p.push(b'.');
            p
        };
        let found = state_dict(&file(&["model"]))?;
        assert_eq!((found.entry.as_deref(), found.tensors.len()), (Some("model"), 1));
        assert!(fails(&file(&["model", "ema"])).contains("torch.load(path)[\"model\"]"));
        assert!(fails(&file(&[])).contains("no tensors by name"));
        Ok(())
    }

    /// Truncated at any place, or with any byte changed.
    #[test]
    fn damage_is_an_error_or_harmless() {
        let whole = program();
        for end in 0..whole.len() {
            assert!(state_dict(&whole[..end]).is_err(), "{end}");
        }
        for i in 0..whole.len() {
            for byte in 0..=255 {
                let mut damaged = whole.clone();
                damaged[i] = byte;
                let _ = state_dict(&damaged);
            }
        }
    }

    #[test]
    fn everything_else_is_rejected() {
        for (program, wants) in [
            (&b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R."[..], "it calls os.system"),
            (b"}\x93.", "instruction 0x93"),
            (b"\x80\x05}.", "pickle protocol 5"),
            (b"K\x01.", "it is not a state dict"),
            (b"t.", "a mark is missing"),
            (b"\x86.", "it pops from an empty stack"),
            (b"h\x07.", "it reads a value that it has not stored"),
            (b"X\xff\xff\xff\xffw.", "it is truncated"),
            (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.", "an integer of 9 bytes"),
            (b"K\x01K\x02K\x03s.", "entries for a value that is not a dict"),
        ] {
            let message = fails(program);
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        // Tuples that double at every step would fill the memory if they were copied.
        let mut doubled = b")q\x00".to_vec();
        for _ in 0..1000 {
            doubled.extend(b"h\x00h\x00\x86q\x00");
        }
        let message = fails(&doubled);
        assert!(message.contains("tuples nested"), "{message}");
    }
}
