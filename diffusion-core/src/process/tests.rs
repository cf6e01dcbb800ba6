//! Tests of the processes: levels, steps, and how files write them.

use super::*;
use crate::schedule::Betas;

fn parsed(toml: &str) -> std::result::Result<NoiseProcess, String> {
    #[derive(Deserialize)]
    struct File {
        process: NoiseProcess,
    }
    let file = toml::from_str(toml);
    file.map(|file: File| file.process).map_err(|e| e.to_string())
}

#[test]
fn levels_are_those_of_the_papers() -> Result<()> {
    let schedule = Schedule::cosine(1000)?;
    let vp = NoiseProcess::from(&schedule);
    for t in [0, 1, 500, 999] {
        assert_eq!(vp.level(t as f64)?, Level::from_alpha_bar(schedule.alpha_bar(t)));
    }
    // ln ᾱ is interpolated between two time steps.
    let middle = vp.level(10.5)?.signal.powi(4);
    assert!((middle / (schedule.alpha_bar(10) * schedule.alpha_bar(11)) - 1.0).abs() < 1e-12);
    assert_eq!(vp.noisiest(), vp.level(999.0)?);
    let (flow, edm) = (NoiseProcess::flow(), NoiseProcess::edm());
    assert_eq!((flow.level(0.0)?, flow.level(1.0)?), (Level::CLEAN, flow.noisiest()));
    assert_eq!(edm.level(80.0)?, edm.noisiest());
    assert_eq!([&vp, &flow, &edm].map(NoiseProcess::prior_std), [1.0, 1.0, 80.0]);
    assert_eq!([&vp, &flow, &edm].map(NoiseProcess::max_network_time), [1000; 3]);
    assert_eq!((vp.network_time(7.5), flow.network_time(0.5)), (7.5, 500.0));
    assert!((edm.network_time(80.0) / 1000.0 - 80f64.ln() / 4.0).abs() < 1e-12);
    Ok(())
}

#[test]
fn steps_fall_from_the_noisiest_time() -> Result<()> {
    assert_eq!(NoiseProcess::flow().steps(4)?, [1.0, 0.75, 0.5, 0.25]);
    assert_eq!(NoiseProcess::Flow { shift: 3.0 }.steps(2)?, [1.0, 0.75]);
    // Karras et al. 2022, equation 5, i = 0 … 17 of N = 18.
    let edm = NoiseProcess::edm().steps(18)?;
    for (i, sigma) in edm.iter().enumerate() {
        let (most, least) = (80f64.powf(1.0 / 7.0), 0.002f64.powf(1.0 / 7.0));
        let want = (most + i as f64 / 17.0 * (least - most)).powf(7.0);
        assert!((sigma / want - 1.0).abs() < 1e-12, "{i}: {sigma} {want}");
    }
    assert_eq!((edm[0], edm[17]), (80.0, 0.002));
    for process in [NoiseProcess::default(), NoiseProcess::flow(), NoiseProcess::edm()] {
        for n in [1, 2, 7, 50, 999, 1000] {
            let steps = process.steps(n)?;
            assert!(steps.len() == n && steps[0] == process.range().1, "{process:?}");
            assert!(steps.windows(2).all(|pair| pair[0] > pair[1]), "{process:?}");
            process.levels(&steps)?;
        }
    }
    Ok(())
}

#[test]
fn files_write_a_process_as_a_name_or_a_table() -> Result<()> {
    let cosine = Schedule::new(500, Betas::COSINE)?;
    let own = Schedule::from_betas("mine", vec![0.1, 0.2, 1.0 / 3.0])?;
    let listed = Schedule::from_betas("custom", vec![0.1, 0.2])?;
    let (sigma_min, sigma_max, rho) = (0.01, 80.0, 7.0);
    for (toml, process) in [
        ("process = 'vp'", NoiseProcess::default()),
        ("process = 'flow'", NoiseProcess::flow()),
        ("process = 'edm'", NoiseProcess::edm()),
        ("[process.flow]\nshift = 3", NoiseProcess::Flow { shift: 3.0 }),
        ("process = {vp = {timesteps = 500, betas = 'cosine'}}", cosine.into()),
        ("process = {vp = {betas = [0.1, 0.2]}}", listed.into()),
        ("process = {vp = {betas = {custom = {name = 'mine', values = [0.1, 0.2, 0.3333333333333333]}}}}", own.into()),
        ("process = {edm = {sigma-min = 0.01}}", NoiseProcess::Edm { sigma_min, sigma_max, rho }),
    ] {
        assert_eq!(parsed(toml).as_ref(), Ok(&process), "{toml}");
        let json = serde_json::to_string(&process).expect("JSON");
        assert_eq!(serde_json::from_str::<NoiseProcess>(&json).expect("JSON"), process, "{json}");
        let map = std::collections::BTreeMap::from([("process", &process)]);
        let toml = toml::to_string(&map).expect("TOML");
        assert_eq!(parsed(&toml), Ok(process), "{toml}");
    }
    assert_eq!(crate::choice::parse_choice::<NoiseProcess>("flow").expect("a name"), NoiseProcess::flow());
    Ok(())
}

#[test]
fn errors_name_the_field_out_of_range() -> Result<()> {
    let level = |process: NoiseProcess, t: f64| process.level(t).unwrap_err().to_string();
    let steps = |process: NoiseProcess, n: usize| process.steps(n).unwrap_err().to_string();
    let (vp, flow, edm) = (NoiseProcess::default, NoiseProcess::flow, NoiseProcess::edm);
    let file = |toml: &str| parsed(toml).unwrap_err();
    for (message, wants) in [
        (level(vp(), 999.5), "t = 999.5 is outside its range 0 … 999"),
        (level(vp(), f64::NAN), "t = NaN"),
        (level(flow(), -0.1), "flow process: t = -0.1 is outside its range 0 … 1"),
        (level(edm(), 0.0), "t = 0 is outside its range 0.002 … 80"),
        (steps(vp(), 0), "steps = 0 must be in 1 … 1000"),
        (steps(vp(), 1001), "steps = 1001"),
        (steps(flow(), usize::MAX), "must be in 1 … 1000000"),
        (steps(NoiseProcess::Flow { shift: 0.0 }, 5), "flow process: shift = 0"),
        (flow().schedule().unwrap_err().to_string(), "flow process is continuous"),
        (file("process = 'flw'"), "unknown variant `flw`, expected one of `vp`, `flow`, `edm`"),
        (file("process = {flow = {shift = nan}}"), "shift = NaN"),
        (file("process = {flow = {shft = 1}}"), "unknown field `shft`"),
        (file("process = {edm = {sigma-min = 90}}"), "sigma-max = 80 must be above sigma-min = 90"),
        (file("process = {edm = {rho = 0.5}}"), "rho = 0.5"),
        (file("process = {vp = {timesteps = 1}}"), "timesteps = 1"),
        (file("process = {vp = {timesteps = 3, betas = [0.1, 0.2]}}"), "timesteps = 3, but betas lists 2"),
        (file("process = {vp = {betas = [0.1, 2]}}"), "betas[1] = 2"),
        (file("process = {vp = {betas = 'cosin'}}"), "unknown variant `cosin`"),
        (file("process = {vp = {betas = 7}}"), "a list of variances"),
    ] {
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    Ok(())
}
