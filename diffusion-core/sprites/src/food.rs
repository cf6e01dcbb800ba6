//! Food: fruit and dishes.

mod dish;
mod fruit;

use super::Kind;

pub(super) const KINDS: &[Kind] = &[
    ("apple", fruit::apple),
    ("pear", fruit::pear),
    ("cherries", fruit::cherries),
    ("loaf", dish::loaf),
    ("cheese", dish::cheese),
    ("drumstick", dish::drumstick),
    ("fish", dish::fish),
    ("carrot", fruit::carrot),
    ("mushroom", fruit::mushroom),
    ("cake", dish::cake),
    ("pie", dish::pie),
    ("grapes", fruit::grapes),
    ("banana", fruit::banana),
    ("fried egg", dish::egg),
    ("pizza", dish::pizza),
    ("ice cream", dish::ice_cream),
    ("watermelon", fruit::watermelon),
    ("bottle", dish::bottle),
    ("strawberry", fruit::strawberry),
    ("doughnut", dish::doughnut),
    ("burger", dish::burger),
];
