//! The sub- and superscripts in a text: `x_t`, `10^{-3}`.

/// The vertical position of a run of letters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Level {
    Base,
    Sub,
    Super,
}

/// Splits a text at its sub- and superscripts: `x_t`, `σ_{t−1}`, `10^{-3}`, `x^2`, and the Unicode characters ₀ … ₉, ₜ,
/// ⁻ etc.
///
/// An underscore without braces counts only between two single letters or digits, so `learning_rate` and `file_1` are
/// unchanged.
pub(super) fn runs(text: &str) -> Vec<(Level, String)> {
    let chars: Vec<char> = text.chars().collect();
    let mut out: Vec<(Level, String)> = Vec::new();
    let mut push = |level: Level, c: char| match out.last_mut() {
        Some((last, run)) if *last == level => run.push(c),
        _ => out.push((level, c.to_string())),
    };
    let mut i = 0;
    while i < chars.len() {
        let (c, rest) = (chars[i], &chars[i + 1..]);
        let level = if c == '_' { Level::Sub } else { Level::Super };
        let braced = match rest.first() {
            Some('{') => rest.iter().position(|&c| c == '}'),
            _ => None,
        };
        let single = match c {
            '_' => one_letter(chars[..i].iter().rev()) && one_letter(rest.iter()),
            '^' => i > 0 && rest.first().is_some_and(|c| c.is_alphanumeric()),
            _ => false,
        };
        if let ('_' | '^', Some(end)) = (c, braced) {
            let minus = |c| if c == '-' { '−' } else { c };
            rest[1..end].iter().for_each(|&c| push(level, minus(c)));
            i += end + 2;
        } else if single {
            push(level, rest[0]);
            i += 2;
        } else {
            let (level, c) = small(c).unwrap_or((Level::Base, c));
            push(level, c);
            i += 1;
        }
    }
    out
}

/// Whether the word at the start of `chars` is a single letter or digit, ignoring accents.
fn one_letter<'a>(chars: impl Iterator<Item = &'a char>) -> bool {
    let word = chars.take_while(|c| c.is_alphanumeric() || is_accent(**c) || **c == '_');
    word.filter(|c| !is_accent(**c)).count() == 1
}

pub(super) fn is_accent(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

/// Unicode's sub- and superscript characters, which the typeface lacks, as a level and a letter.
fn small(c: char) -> Option<(Level, char)> {
    const SUB: (&str, &str) = ("₀₁₂₃₄₅₆₇₈₉₊₋₌ₐₑₒₓₕₖₗₘₙₚₛₜᵢⱼᵣᵤᵥ", "0123456789+−=aeoxhklmnpstijruv");
    const SUPER: (&str, &str) = ("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼ⁿⁱᵀ", "0123456789+−=niT");
    let find = |(from, to): (&str, &str)| to.chars().nth(from.chars().position(|f| f == c)?);
    find(SUB).map(|c| (Level::Sub, c)).or_else(|| find(SUPER).map(|c| (Level::Super, c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_distinguished_from_names() {
        // Subscripts in (), superscripts in [].
        let marked = |text: &str| -> String {
            let mark = |(level, run): (Level, String)| match level {
                Level::Base => run,
                Level::Sub => format!("({run})"),
                Level::Super => format!("[{run}]"),
            };
            runs(text).into_iter().map(mark).collect()
        };
        for (text, want) in [
            ("x_t", "x(t)"),
            ("√(1−ᾱ_t) ε", "√(1−ᾱ(t)) ε"),
            ("x\u{302}_0", "x\u{302}(0)"),
            ("ε_θ(x_t, t)", "ε(θ)(x(t), t)"),
            ("σ_{t-1}^2", "σ(t−1)[2]"),
            ("5·10^{-3}", "5·10[−3]"),
            ("β₀ₜ x²", "β(0t) x[2]"),
            ("learning_rate", "learning_rate"),
            ("x_train file_1 _t a_b_c", "x_train file_1 _t a_b_c"),
            ("", ""),
            ("_", "_"),
            ("^", "^"),
            ("x_{", "x_{"),
            ("x_{}", "x"),
            ("x_}", "x_}"),
        ] {
            assert_eq!(marked(text), want, "{text}");
        }
    }
}
