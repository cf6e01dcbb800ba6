#!/usr/bin/env python3
"""Translates a kernel from PTX to C++ and compiles it.

    ptx.py MODULE.ptx KERNEL OUT    writes OUT.cpp and OUT.so

Each instruction becomes a line of C++ on variables for the registers; ptx.hpp holds what they do, and emulate.hpp of the crate's
own tests the threads and barriers. An instruction that is not known is an error that names it.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EMULATOR = HERE.parent.parent / "diffusion-core" / "ops" / "src" / "ops" / "cuda"
SPACES = {"global", "shared", "local", "param", "const"}
SPECIAL = {"%tid.x": "threadIdx.x", "%ctaid.x": "blockIdx.x", "%ctaid.y": "blockIdx.y", "%ntid.x": "blockDim.x", "%nctaid.x": "gridDim.x",
           "%nctaid.y": "gridDim.y", "%tid.y": "0", "%tid.z": "0", "%ctaid.z": "0", "%ntid.y": "1", "%ntid.z": "1", "%nctaid.z": "1",
           "%laneid": "threadIdx.x % 32"}
# Their operands are all of the instruction's type.
PLAIN = {"add", "sub", "mul", "div", "rem", "min", "max", "and", "or", "xor", "not", "neg", "abs", "sqrt", "rcp", "rsqrt", "ex2", "lg2",
         "sin", "cos", "tanh", "copysign"}
ARRAY = r"\.(?P<space>global|const|shared|local|param)\s+(?:\.align\s+\d+\s+)?\.(?P<type>\w+)\s+(?P<name>[\w$]+)(?:\[(?P<count>\d+)\])?"


class Unknown(Exception):
    pass


def within(text, start, brackets):
    """The text between the bracket at `start` and the one that closes it, and where that is."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == brackets[0]) - (text[at] == brackets[1])
        if depth == 0:
            return text[start + 1:at], at
    raise Unknown(f"{brackets[0]} is not closed")


def name_of(register):
    return "v_" + re.sub(r"\W", "_", register.lstrip("%"))


def size_of(kind):
    return int(re.sub(r"\D", "", kind)) // 8


def type_of(kind):
    """The C++ type of PTX's b32, u32, f32, bf16, pred …"""
    return "bool" if kind == "pred" else "u" + kind[1:] if re.fullmatch(r"b\d+", kind) else kind


def storage_of(kind):
    return "bool" if kind == "pred" else f"u{8 * size_of(kind)}"


def operands_of(text):
    found, depth = [""], 0
    for c in text:
        depth += (c in "{[(") - (c in "}])")
        if c == "," and depth == 0:
            found.append("")
        else:
            found[-1] += c
    return [operand.strip() for operand in found if operand.strip()]


def statements_of(text):
    """Scopes, labels and statements, without comments."""
    text, at = re.sub(r"//[^\n]*", "", text), 0
    while at < len(text):
        if text[at].isspace() or text[at] == ";":
            at += 1
        elif text[at] in "{}":
            yield text[at]
            at += 1
        elif label := re.compile(r"[$\w%]+:(?!:)").match(text, at):
            yield label[0]
            at = label.end()
        elif text.startswith(".loc", at):
            at = text.index("\n", at)
        else:
            end = text.index(";", at)
            yield " ".join(text[at:end].split())
            at = end + 1


class Kernel:
    def __init__(self, module, name):
        head = re.search(r"\.entry\s+" + re.escape(name) + r"\s*\(", module)
        if not head:
            raise Unknown("there is no such kernel")
        parameters, end = within(module, head.end() - 1, "()")
        self.body, _ = within(module, module.index("{", end), "{}")
        # (name, bytes) of each.
        self.parameters = [(it["name"], size_of(it["type"]) * int(it["count"] or 1)) for it in re.finditer(ARRAY, parameters)]
        self.shared, self.shared_size, self.tables = {}, 0, []
        outside = re.compile(r"^\s*(?:\.visible\s+|\.weak\s+)?" + ARRAY + r"(?:\s*=\s*\{(?P<values>[^}]*)\})?;", re.M)
        for it in outside.finditer(module):
            if re.search(r"[\s,\[]" + re.escape(it["name"]) + r"(?![\w$])", self.body):
                if it["space"] == "shared":
                    self.share(it)
                elif it["space"] in ("global", "const"):
                    self.tables.append(it)

    def share(self, it):
        self.shared_size = -(-self.shared_size // 16) * 16
        self.shared[it["name"]] = self.shared_size
        self.shared_size += size_of(it["type"]) * int(it["count"] or 1)

    def cpp(self):
        tables = [f"alignas(16) static {storage_of(it['type'])} {name_of(it['name'])}[{it['count'] or 1}] = {{{it['values'] or ''}}};"
                  for it in self.tables]
        declared = [f"alignas(8) static u8 {name_of(name)}[{size}];" for name, size in self.parameters]
        body = [self.statement(it) for it in statements_of(self.body)]
        read = [f"  memcpy({name_of(name)}, arguments[{i}], {size});" for i, (name, size) in enumerate(self.parameters)]
        return "\n".join(['#include "ptx.hpp"', *tables, *declared, "static void kernel() {", *body, "}",
                          'extern "C" const char *start(void **arguments, unsigned x, unsigned y, unsigned threads, int backwards) {',
                          *read, "  return emulator::launch(kernel, arguments, x, y, threads, backwards);", "}", ""])

    def statement(self, it):
        if it in "{}":
            return it
        if it.endswith(":"):
            return f"{name_of(it[:-1])}:;"
        if it.startswith(".pragma"):
            return ""
        if it.startswith(".reg"):
            kind, names = re.fullmatch(r"\.reg \.(\w+) (.*)", it).groups()
            declared = []
            for name in operands_of(names):
                many = re.fullmatch(r"(.+)<(\d+)>", name)
                declared += [name_of(f"{many[1]}{i}") for i in range(int(many[2]))] if many else [name_of(name)]
            return f"{storage_of(kind)} {', '.join(declared)};"
        if array := re.fullmatch(ARRAY, it):
            if array["space"] == "shared":
                self.share(array)
                return ""
            return f"alignas(16) {storage_of(array['type'])} {name_of(array['name'])}[{array['count'] or 1}];"
        condition = re.match(r"@(!?)(\S+) ", it)
        rest = it[condition.end():] if condition else it
        op, _, operands = rest.partition(" ")
        try:
            code = self.instruction(*op.partition(".")[::2], operands_of(operands))
        except (AttributeError, IndexError, KeyError, ValueError):
            code = None
        if code is None:
            raise Unknown(it)
        return f"if ({condition[1]}{name_of(condition[2])}) {{ {code} }}" if condition else code

    def value(self, operand, kind):
        """What an operand holds, read as this type."""
        kind = type_of(kind)
        if kind == "bool":
            return str(operand != "0").lower() if re.match(r"-?\d", operand) else name_of(operand)
        if bits := re.fullmatch(r"0[fF](\w{8})|0[dD](\w{16})", operand):
            return f"get<{kind}>((u32)0x{bits[1]}u)" if bits[1] else f"get<{kind}>((u64)0x{bits[2]}ull)"
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", operand):
            number = operand.rstrip("U") + ("ll" if operand.startswith("-") else "ull")
            return f"(({kind}){number})" if kind[0] in "us" else f"get<{kind}>((u{8 * size_of(kind)}){number})"
        if operand in SPECIAL:
            return f"(({kind})({SPECIAL[operand]}))"
        if operand in self.shared:
            return f"(({kind}){self.shared[operand]}u)"
        if operand.startswith("__local_depot") or any(it["name"] == operand for it in self.tables):
            return f"(({kind})(u64)(void *){name_of(operand)})"
        return f"get<{kind}>({name_of(operand)})"

    def address(self, operand, space, size):
        base, off = re.fullmatch(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand).groups()
        off = off or "0"
        if space == "param":
            return f"(u8 *){name_of(base)} + {off}"
        if space == "shared":
            return f"shared({self.value(base, 'u32')} + (u32)({off}), {size})"
        if space == "global" and not base.startswith("%"):  # a table
            return f"(u8 *){name_of(base)} + {off}"
        if space in ("local", "const"):
            return f"(u8 *)({self.value(base, 'u64')} + (s64)({off}))"
        return f"global({self.value(base, 'u64')} + (s64)({off}), {size})"

    def instruction(self, op, modifiers, operands):
        """The C++ of an instruction; None for one that is not known."""
        modifiers = modifiers.split(".") if modifiers else []
        kind = modifiers[-1] if modifiers else ""
        value = self.value
        to = name_of(operands[0]) if operands else ""
        rounding = next((m for m in modifiers[:-1] if m in ("rz", "rm", "rp")), "rn")

        def put(expression, kind=kind):
            return f"set<{type_of(kind)}>({to}, {expression});"

        if op in ("ld", "st"):
            loads = op == "ld"
            space = next((m for m in modifiers if m in SPACES), "generic")
            lanes = next((int(m[1]) for m in modifiers if m in ("v2", "v4")), 1)
            size, name = size_of(kind), type_of(kind)
            registers = operands_of(operands[0 if loads else 1].strip("{}"))
            one = "set<{t}>({r}, load<{t}>(at + {o}));" if loads else "store<{t}>(at + {o}, {v});"
            each = [one.format(t=name, r=name_of(r), o=i * size, v="" if loads else value(r, kind)) for i, r in enumerate(registers)]
            return f"{{ u8 *at = {self.address(operands[loads], space, size * lanes)}; {' '.join(each)} }}"
        if op == "mov" and operands[0].startswith("{"):
            parts = operands_of(operands[0].strip("{}"))
            bits = 8 * size_of(kind) // len(parts)
            each = [f"{name_of(part)} = (u{bits})(whole >> {i * bits});" for i, part in enumerate(parts) if part != "_"]
            return f"{{ u64 whole = {value(operands[1], kind)}; {' '.join(each)} }}"
        if op == "mov" and operands[1].startswith("{"):
            parts = operands_of(operands[1].strip("{}"))
            bits = 8 * size_of(kind) // len(parts)
            return f"{to} = " + " | ".join(f"(u64){value(part, f'u{bits}')} << {i * bits}" for i, part in enumerate(parts)) + ";"
        if op in ("mov", "cvta") and "shared" not in modifiers:
            return put(value(operands[1], kind))
        if op == "cvta":
            base, other = "(u64)shared_memory", value(operands[1], "u64")
            return put(f"{other} - {base}" if "to" in modifiers else f"{other} + {base}")
        if op == "bra":
            return f"goto {name_of(operands[0])};"
        if op in ("ret", "exit"):
            return "return;"
        if op == "bar" and modifiers == ["sync"] and operands == ["0"]:
            return "__syncthreads();"
        if op == "shfl" and modifiers[:2] == ["sync", "bfly"]:
            values, *whether = (name_of(it) for it in operands[0].split("|"))
            code = f"{values} = __shfl_xor_sync(0xffffffffu, {value(operands[1], 'u32')}, {value(operands[2], 'u32')});"
            return code + "".join(f" {it} = true;" for it in whether)
        if op == "setp":
            results = [name_of(it) for it in operands[0].split("|")]
            code = f"bool is = compare_{modifiers[0]}({value(operands[1], kind)}, {value(operands[2], kind)});"
            if len(operands) == 4:
                code += f" is = is {dict(zip(('and', 'or', 'xor'), '&|^'))[modifiers[1]]} {value(operands[3], 'pred')};"
            return f"{{ {code} {results[0]} = is;{''.join(f' {it} = !is;' for it in results[1:])} }}"
        if op == "selp":
            return put(f"{value(operands[3], 'pred')} ? {value(operands[1], kind)} : {value(operands[2], kind)}")
        if op == "cvt":
            to_kind, from_kind = modifiers[-2:]
            whole = next((m for m in modifiers[:-2] if m in ("rni", "rzi", "rmi", "rpi")), None)
            function = f"rounded_{whole}" if whole else "converted"
            code = f"{function}<{type_of(to_kind)}>({value(operands[1], from_kind)})"
            return put(f"saturated({code})" if "sat" in modifiers[:-2] else code, to_kind)
        if op in ("atom", "red"):
            function = next(m for m in modifiers if m in ("add", "min", "max"))
            space = next((m for m in modifiers if m in SPACES), "generic")
            place, operand = operands[-2:]
            name = type_of(kind)
            code = f"u8 *at = {self.address(place, space, size_of(kind))}; {name} old = load<{name}>(at);"
            code += f" store<{name}>(at, op_{function}(old, {value(operand, kind)}));"
            return f"{{ {code} {put('old') if op == 'atom' else ''} }}"
        if op in ("mul", "mad") and "wide" in modifiers:
            wide = kind[0] + str(16 * size_of(kind))
            code = f"({wide}){value(operands[1], kind)} * ({wide}){value(operands[2], kind)}"
            return put(code + (f" + {value(operands[3], wide)}" if op == "mad" else ""), wide)
        if op in ("mul", "mad") and kind[0] in "us" and modifiers[0] in ("lo", "hi") and "cc" not in modifiers:
            function = {"lo": "low_product", "hi": "high_product"}[modifiers[0]]
            code = f"{function}({value(operands[1], kind)}, {value(operands[2], kind)})"
            return put(f"op_add({code}, {value(operands[3], kind)})" if op == "mad" else code)
        if op == "fma" and rounding in ("rn", "rm"):
            return put(f"fma_{rounding}({', '.join(value(it, kind) for it in operands[1:])})")
        if op in ("shl", "shr"):
            return put(f"op_{op}({value(operands[1], kind)}, {value(operands[2], 'u32')})")
        if op == "shf" and modifiers[1] == "wrap":
            return put(f"op_shf_{modifiers[0]}({', '.join(value(it, 'u32') for it in operands[1:])})")
        if op == "prmt":
            return put(f"op_prmt({', '.join(value(it, 'u32') for it in operands[1:])})")
        if op == "bfi":
            kinds = (kind, kind, "u32", "u32")
            return put(f"op_bfi({', '.join(value(it, of) for it, of in zip(operands[1:], kinds))})")
        if op == "call":  # what only a failed assertion comes to
            return 'emulator::fault = "a function that is not translated"; return;'
        if op in PLAIN and rounding == "rn" and "cc" not in modifiers:
            if kind == "bf16x2":
                return f"{to} = pair_{op}({', '.join(value(it, 'b32') for it in operands[1:])});"
            values = [value(it, kind) for it in operands[1:]]
            if kind == "pred":
                return f"{to} = " + {"and": "{} & {}", "or": "{} | {}", "xor": "{} ^ {}", "not": "!{}"}[op].format(*values) + ";"
            code = f"op_{op}{'_nan' if 'NaN' in modifiers else ''}({', '.join(values)})"
            return put(f"saturated({code})" if "sat" in modifiers else code)
        return None


def main(module, name, out):
    try:
        Path(f"{out}.cpp").write_text(Kernel(Path(module).read_text(), name).cpp())
    except Unknown as problem:
        sys.exit(f"{name}: this cannot be translated: {problem}")
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-std=c++17", "-O1", "-w", "-ffp-contract=off", "-fPIC", "-shared", f"-I{HERE}", f"-I{EMULATOR}",
                    "-o", f"{out}.so", f"{out}.cpp"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
