//! The values of --context.

use anyhow::{Result, bail, ensure};

/// The number of known names that an error lists beside an unknown one.
const LISTED: usize = 3;

/// Reads the context vector of `k` values with these names, and describes it: `context Smiling=1, Eyeglasses=-1`.
///
/// The values are given by name, and the others are 0; or there is a number for each.
pub fn parse(given: &[String], names: &[String], k: usize) -> Result<(Vec<f32>, String)> {
    // A name may contain a comma, so a text that is one known name and its value is not split.
    let known = |text: &str| names.iter().position(|name| name == text.trim());
    let whole =
        |text: &str| text.rsplit_once('=').is_some_and(|(name, value)| !value.contains(',') && known(name).is_some());
    let parts: Vec<&str> = given
        .iter()
        .flat_map(|text| if whole(text) { vec![&text[..]] } else { text.split(',').collect() })
        .map(str::trim)
        .collect();
    if parts.iter().all(|part| part.parse::<f32>().is_ok()) {
        let row = parts.iter().map(|part| number(part)).collect::<Result<Vec<f32>>>()?;
        ensure!(
            row.len() == k,
            "--context: {} numbers were given, but the model takes {k}, one for each of {}",
            row.len(),
            names.join(", ")
        );
        let words = format!("context {row:?}");
        return Ok((row, words));
    }
    let mut row = vec![0.0; k];
    for (i, part) in parts.iter().enumerate() {
        let Some((name, value)) = part.rsplit_once('=') else {
            let example = names.iter().find(|name| name == part).or(names.first()).map_or("NAME", |name| name);
            // Quoted for the shell.
            let example = if example.contains(' ') { format!("'{example}=1'") } else { format!("{example}=1") };
            bail!(
                "--context {part}: give a name and its value, as in {example}, or one number for each of {}",
                names.join(", ")
            )
        };
        let name = name.trim();
        let Some(at) = known(name).filter(|at| *at < k) else {
            bail!("--context {name}: there is no such name; the nearest are {}", nearest(name, names).join(", "))
        };
        let before = parts[..i].iter().filter_map(|part| part.rsplit_once('='));
        ensure!(before.into_iter().all(|(other, _)| other.trim() != name), "--context {name}: it is given twice");
        row[at] = number(value.trim())?;
    }
    Ok((row, format!("context {}", parts.join(", "))))
}

fn number(text: &str) -> Result<f32> {
    match text.parse() {
        Ok(number) if f32::is_finite(number) => Ok(number),
        _ => bail!("--context: {text:?} is not a finite number"),
    }
}

/// The known names that differ least from this one.
fn nearest<'a>(name: &str, names: &'a [String]) -> Vec<&'a str> {
    let mut sorted: Vec<&str> = names.iter().map(|name| &name[..]).collect();
    sorted.sort_by_key(|known| strsim::levenshtein(&known.to_lowercase(), &name.to_lowercase()));
    sorted.truncate(LISTED);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["Smiling", "Eyeglasses", "No_Beard", "cats, old"].map(str::to_owned).to_vec()
    }

    #[test]
    fn values_are_given_by_name_or_all_in_order() -> Result<()> {
        let read = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            parse(&given, &names(), 4)
        };
        for (given, row, words) in [
            (&["Smiling=1,Eyeglasses=-1"][..], [1.0, -1.0, 0.0, 0.0], "context Smiling=1, Eyeglasses=-1"),
            (&["No_Beard = 0.5", "cats, old=1"], [0.0, 0.0, 0.5, 1.0], "context No_Beard = 0.5, cats, old=1"),
            (&["1,0", "-0.6, 0"], [1.0, 0.0, -0.6, 0.0], "context [1.0, 0.0, -0.6, 0.0]"),
        ] {
            assert_eq!(read(given)?, (row.to_vec(), words.to_owned()));
        }
        for (given, wants) in [
            (&["1,0,0"][..], "3 numbers were given, but the model takes 4, one for each of Smiling, Eyeglasses"),
            (&["Smiling=1,Eyeglases=-1"], "--context Eyeglases: there is no such name; the nearest are Eyeglasses, "),
            (&["smiling=1"], "the nearest are Smiling, "),
            (&["Smiling=1,Eyeglasses"], "--context Eyeglasses: give a name and its value, as in Eyeglasses=1"),
            (&["1,Smiling=1"], "--context 1: give a name and its value, as in Smiling=1, or one number for each of"),
            (&["Smiling=1,Smiling=0"], "--context Smiling: it is given twice"),
            (&["Smiling=yes"], "\"yes\" is not a finite number"),
            (&["1,0,0,NaN"], "\"NaN\" is not a finite number"),
            (&["No_Beard"], "as in No_Beard=1"),
            (&["cats, old"], "--context cats: give a name and its value, as in Smiling=1"),
            (&["Smiling=1,cats old"], "as in Smiling=1"),
            (&["="], "the nearest are"),
        ] {
            let said = read(given).unwrap_err().to_string();
            assert!(said.contains(wants), "{given:?}: {said:?} lacks {wants:?}");
        }
        Ok(())
    }
}
