//! When two spellings of a configuration value mean the same.

/// Whether the broker's report of a value is what was declared.
///
/// Brokers parse a value by its key's type and report it in their own spelling: `0.50` as `0.5`, `delete, compact` as
/// `delete,compact`, `TRUE` as `true`. Comparing texts alone would set such a value again for ever.
#[must_use]
pub fn same(declared: &str, reported: &str) -> bool {
    if declared == reported {
        return true;
    }
    let (declared, reported) = (declared.trim(), reported.trim());
    if let (Ok(declared), Ok(reported)) = (declared.parse::<i64>(), reported.parse::<i64>()) {
        return declared == reported;
    }
    if let (Ok(declared), Ok(reported)) = (declared.parse::<f64>(), reported.parse::<f64>()) {
        // Both come from a short decimal text: the same number parses to the same bits.
        return declared.to_bits() == reported.to_bits();
    }
    if let (Ok(declared), Ok(reported)) =
        (declared.to_ascii_lowercase().parse::<bool>(), reported.to_ascii_lowercase().parse::<bool>())
    {
        return declared == reported;
    }
    declared.split(',').map(str::trim).eq(reported.split(',').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn spellings_of_one_value_are_the_same() {
        for (declared, reported) in [
            ("0.50", "0.5"),
            ("delete, compact", "delete,compact"),
            ("TRUE", "true"),
            ("0604800000", "604800000"),
        ] {
            assert!(same(declared, reported), "{declared} and {reported}");
        }
    }

    #[test]
    fn different_values_are_different() {
        for (declared, reported) in [
            ("1", "2"),
            ("0.5", "0.51"),
            ("delete", "compact"),
            ("true", "false"),
            ("9007199254740993", "9007199254740992"),
        ] {
            assert!(!same(declared, reported), "{declared} and {reported}");
        }
    }
}
