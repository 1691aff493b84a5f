//! Names that come from outside, parsed once: afterwards they are known to be short and printable.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest user id, in characters: room for an e-mail address or a UUID with a prefix.
pub const MAX_USER_ID_CHARS: usize = 128;
/// Longest product id or coupon code, in characters.
pub const MAX_CODE_CHARS: usize = 64;

/// One thing that is wrong with an input, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Violation {
    /// Path of the field, such as `items[2].quantity`.
    pub field: String,
    /// What is wrong with it and what is allowed.
    pub problem: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// Who orders: 1 to [`MAX_USER_ID_CHARS`] characters, none of them a control character, not blank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserId(String);

/// A product's id in the catalogue: 1 to [`MAX_CODE_CHARS`] of ASCII letters, digits, `.`, `_`, `:` and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProductId(String);

/// A coupon's code: the same characters as a [`ProductId`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CouponCode(String);

impl UserId {
    /// Parses the value of `field`.
    ///
    /// # Errors
    /// A [`Violation`] that names the rule.
    pub fn parse(field: &str, text: String) -> Result<Self, Violation> {
        let count = text.chars().count();
        if count == 0 || count > MAX_USER_ID_CHARS {
            return Err(Violation::new(
                field,
                format!("must have 1 to {MAX_USER_ID_CHARS} characters, not {count}"),
            ));
        }
        if text.chars().any(char::is_control) || text.trim().is_empty() {
            return Err(Violation::new(
                field,
                "must be printable: no control characters, and not only blanks",
            ));
        }
        Ok(Self(text))
    }
}

impl ProductId {
    /// Parses the value of `field`.
    ///
    /// # Errors
    /// A [`Violation`] that names the rule.
    pub fn parse(field: &str, text: String) -> Result<Self, Violation> {
        check_code(field, &text)?;
        Ok(Self(text))
    }
}

impl CouponCode {
    /// Parses the value of `field`.
    ///
    /// # Errors
    /// A [`Violation`] that names the rule.
    pub fn parse(field: &str, text: String) -> Result<Self, Violation> {
        check_code(field, &text)?;
        Ok(Self(text))
    }
}

fn check_code(field: &str, text: &str) -> Result<(), Violation> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if text.is_empty() || text.len() > MAX_CODE_CHARS || !text.bytes().all(allowed) {
        let rule = format!("must be 1 to {MAX_CODE_CHARS} of letters, digits, '.', '_', ':' and '-'");
        return Err(Violation::new(field, rule));
    }
    Ok(())
}

macro_rules! text_access {
    ($($name:ident),*) => {$(
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
text_access!(UserId, ProductId, CouponCode);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_user_id_is_short_and_printable() {
        for good in ["u1", "Zoë Ångström", "a@b.example", &"x".repeat(MAX_USER_ID_CHARS)] {
            assert!(UserId::parse("userId", good.to_owned()).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "a\0b", "line\nbreak", "\u{85}", &"x".repeat(MAX_USER_ID_CHARS + 1)] {
            assert!(UserId::parse("userId", bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_code_has_only_characters_that_need_no_escaping() {
        for good in ["p-1", "SKU_9.1:x"] {
            assert!(ProductId::parse("productId", good.to_owned()).is_ok(), "{good:?}");
        }
        for bad in ["", "a b", "a/b", "ä", "a\0", "'; drop table orders", &"x".repeat(MAX_CODE_CHARS + 1)] {
            assert!(CouponCode::parse("couponCode", bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in ".*") {
            let _ = UserId::parse("userId", text.clone());
            let _ = ProductId::parse("productId", text);
        }
    }
}
