//! Durations as people write them: 30, 0.5, 500ms, 30s, 5m, 2h.

use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
const HELP: &str =
    "expected seconds, such as 30 or 0.5, or a number with its unit: 500ms, 30s, 5m or 2h";

/// Reads a number of seconds, or a number with its unit; fractions are allowed.
///
/// # Errors
/// A sentence with examples.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let end_of_number = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end_of_number);
    let unit_ns: u128 = match unit {
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(HELP.to_owned()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(HELP.to_owned());
    }
    let too_long = || "that is too long".to_owned();
    // Digits beyond the twelfth are below a nanosecond in every unit.
    let fraction = &fraction[..fraction.len().min(12)];
    let digits: u128 = match format!("{whole}{fraction}").parse() {
        Ok(digits) => digits,
        Err(_) => return Err(too_long()),
    };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let nanoseconds = digits.checked_mul(unit_ns).ok_or_else(too_long)? / scale;
    u64::try_from(nanoseconds / 1_000_000_000)
        .map(|seconds| {
            Duration::from_secs(seconds)
                + Duration::from_nanos((nanoseconds % 1_000_000_000) as u64)
        })
        .ok()
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(too_long)
}

/// Whole milliseconds, rounded up: a lease of a fraction of one is not a lease of none.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_numbers_are_seconds_and_fractions_are_allowed() {
        for (text, ms) in [
            ("30", 30_000),
            ("0", 0),
            ("0.5", 500),
            (".25", 250),
            ("1.", 1000),
            ("1.5s", 1500),
            ("1500ms", 1500),
            ("30s", 30_000),
            ("1.5m", 90_000),
            ("2min", 120_000),
            ("2h", 7_200_000),
            ("0.0001h", 360),
            ("0.0000001", 1),
            ("1.00000000000000000000000000000000001", 1000),
        ] {
            assert_eq!(parse(text).map(milliseconds), Ok(ms), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for wrong in [
            "",
            ".",
            "s",
            "-1",
            "-1s",
            "+1",
            "1.2.3",
            "1e3",
            "1d",
            "1 s",
            "0x10",
            "inf",
            "99999999999999999999s",
            "18446744073709551615h",
            "340282366920938463463374607431768211456",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
