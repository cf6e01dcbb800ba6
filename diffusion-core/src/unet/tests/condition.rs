use super::*;
use crate::unet::Conditioning;
use candle_core::Device;

fn tensor(rows: &[[f32; 2]; 2]) -> Tensor {
    Tensor::new(rows, &Device::Cpu).unwrap()
}

fn image(shape: (usize, usize, usize, usize)) -> Condition {
    Condition::low_res(Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap())
}

/// All parts, for two images.
fn all() -> Condition {
    Condition::labels([7, 3])
        .and(Condition::context(tensor(&[[1.0, 0.5], [0.0, 2.0]])))
        .and(image((2, 1, 2, 2)))
        .and(Condition::tokens(Tokens::new([vec![4, 5], vec![6]])))
}

#[test]
fn parts_are_dropped_together_or_independently() -> Result<()> {
    let null = all().dropped(&[true, false])?;
    assert_eq!(null.labels, Some(vec![None, Some(3)]));
    let context = Condition::context(tensor(&[[0.0, 0.0], [0.0, 2.0]]));
    assert_eq!(Condition::context(null.context.unwrap()), context);
    assert_eq!(null.tokens.unwrap().rows(), [vec![], vec![6]]);
    let low_res = null.low_res.unwrap().sum((1, 2, 3))?.to_vec1::<f32>()?;
    assert_eq!(low_res, [0.0, 4.0]);

    use ConditionPart::{Labels, LowRes};
    let masks: [(_, &[bool]); 2] = [(Labels, &[false, true]), (LowRes, &[true, false])];
    let some = all().dropped_parts(&masks)?;
    assert_eq!(some.labels, Some(vec![Some(7), None]));
    let low_res = some.low_res.unwrap().sum((1, 2, 3))?.to_vec1::<f32>()?;
    assert_eq!(low_res, [0.0, 4.0]);
    assert_eq!(some.tokens, all().tokens);

    assert_eq!(Condition::none().dropped(&[true])?, Condition::none());
    let message = all().dropped(&[true]).unwrap_err().to_string();
    assert!(message.contains("for 2 images, not 1"), "{message}");
    Ok(())
}

#[test]
fn conditions_are_concatenated_and_narrowed() -> Result<()> {
    let (both, none) = (all(), Condition::none());
    let joined = Condition::cat(&[(&both, 2), (&none, 1), (&Condition::labels([1]), 1)])?;
    let labels = [Some(7), Some(3), None, Some(1)];
    assert_eq!((joined.labels.as_deref(), joined.len()), (Some(&labels[..]), Some(4)));
    assert_eq!(joined.narrow(0, 2)?, both);
    let null = both.narrow(0, 1)?.dropped(&[true])?;
    assert_eq!(joined.narrow(2, 1)?, null);
    assert_eq!(joined.narrow(3, 1)?, null.and(Condition::labels([1])), "missing parts are null");
    assert_eq!(Condition::cat(&[(&none, 4), (&none, 1)])?, none);
    assert!(Condition::cat(&[(&both, 2), (&image((1, 1, 3, 3)), 1)]).is_err());
    let message = Condition::cat(&[(&both, 3)]).unwrap_err().to_string();
    assert!(message.contains("for 2 images, not 3"), "{message}");
    for (start, len) in [(1, 2), (3, 0), (1, usize::MAX)] {
        assert!(both.narrow(start, len).is_err(), "{start} {len}");
    }
    assert_ne!(both, all().dropped(&[false, true])?);
    assert!(none.is_none() && !both.is_none() && none.len().is_none());
    Ok(())
}

#[test]
fn errors_name_what_does_not_match() -> Result<()> {
    let labels = Conditioning { classes: 10, ..Default::default() };
    let context = Conditioning { context: 5, ..Default::default() };
    let everything =
        Conditioning { classes: 10, context: 2, low_res: 4, tokens: 2, vocabulary: 7, ..Default::default() };
    let check =
        |conditioning: Conditioning, condition: &Condition| conditioning.check_condition("net", condition, [2, 8, 8]);
    check(everything, &all())?;
    check(everything, &Condition::none())?;
    check(labels, &Condition::none())?;
    let of_context = Condition::context(tensor(&[[0.0; 2]; 2]));
    let texts = |rows: [Vec<u32>; 2]| Condition::tokens(Tokens::new(rows));
    for (conditioning, condition, wants) in [
        (
            Conditioning::default(),
            Condition::labels([1, 2]),
            "the condition has class labels; the network expects Condition::none(), since it is unconditional",
        ),
        (context, Condition::labels([1, 2]), "a context of 5 numbers"),
        (labels, of_context.clone(), "a class label in 0 … 9"),
        (everything, image((2, 1, 2, 3)), "image of shape [2, 1, 2, 3]; the network expects [2, 1, 2, 2]"),
        (labels, image((2, 1, 2, 2)), "a low-resolution image; the network expects a class"),
        (labels, Condition::labels([1]), "1 labels; the network expects one for each of 2 images"),
        (labels, Condition::labels([1, 10]), "class 10; the network expects the classes 0 … 9"),
        (context, of_context, "a context of shape [2, 2]; the network expects [2, 5]"),
        (labels, texts([vec![1], vec![]]), "text tokens"),
        (everything, texts([vec![1; 3], vec![]]), "a text of 3 tokens; the network expects at most 2"),
        (everything, texts([vec![7], vec![]]), "token 7; the network expects the tokens 0 … 6"),
        (everything, Condition::tokens(Tokens::new([vec![1]])), "1 texts"),
    ] {
        let message = check(conditioning, &condition).unwrap_err().to_string();
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    assert!(Tokens::new([vec![1, 2]]).ids(1, &Device::Cpu).is_err());
    for (conditioning, wants) in [
        (Conditioning { channels: 0, ..labels }, "channels = 0"),
        (Conditioning { context: usize::MAX, ..labels }, "context = "),
        (Conditioning { tokens: 3, ..labels }, "tokens = 3 and vocabulary = 0"),
    ] {
        let message = conditioning.check("net").unwrap_err().to_string();
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    Ok(())
}
