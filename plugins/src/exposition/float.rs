//! Sample values: the numbers that Go's parser takes, read fast and written so that they come back
//! bit for bit.

use std::io::Write;

/// All the powers of ten that an f64 holds exactly.
const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// The NaN that Prometheus stores for every NaN that it reads; another one marks series as stale.
const NORMAL_NAN: f64 = f64::from_bits(0x7ff8_0000_0000_0001);

/// The number that `token` spells for Prometheus, or `None`. Go and Rust read the same spellings
/// but for two: a sign before `nan`, and finite text that only infinity could hold.
pub(super) fn parse_float(token: &[u8]) -> Option<f64> {
    if let Some((value, len)) = read_float(token)
        && len == token.len()
    {
        return Some(value);
    }
    if let [b'+' | b'-', b'n' | b'N', ..] = token {
        return None;
    }
    let value: f64 = std::str::from_utf8(token).ok()?.parse().ok()?;
    if value.is_infinite() && token.iter().any(u8::is_ascii_digit) {
        return None;
    }
    Some(if value.is_nan() { NORMAL_NAN } else { value })
}

/// The decimal number at the start of `bytes` and its length, if digits and power of ten are both exact in
/// an f64, so that one operation rounds correctly. Nearly all samples are read here. `None` does not mean
/// that there is no number.
#[inline]
pub(super) fn read_float(bytes: &[u8]) -> Option<(f64, usize)> {
    let is_negative = bytes.first() == Some(&b'-');
    let mut at = usize::from(is_negative);
    let (mut mantissa, whole) = read_digits(bytes, &mut at, 0);
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        (mantissa, fraction) = read_digits(bytes, &mut at, mantissa);
    }
    if whole + fraction == 0 || whole + fraction > 19 {
        return None; // no number, or one that may have overflown
    }
    let mut exponent = -(fraction as i32);
    if let Some(b'e' | b'E') = bytes.get(at) {
        exponent += read_exponent(bytes, &mut at)?;
    }
    if mantissa > 1 << 53 {
        return None;
    }
    let power = *POWERS_OF_TEN.get(exponent.unsigned_abs() as usize)?;
    let value = if exponent < 0 { mantissa as f64 / power } else { mantissa as f64 * power };
    Some((if is_negative { -value } else { value }, at))
}

/// Appends the digits at `at` to `number`, which wraps beyond 19 of them; gives back how many there are.
#[inline]
fn read_digits(bytes: &[u8], at: &mut usize, mut number: u64) -> (u64, usize) {
    let start = *at;
    while let Some(digit) = bytes.get(*at).map(|byte| byte.wrapping_sub(b'0'))
        && digit < 10
    {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        *at += 1;
    }
    (number, *at - start)
}

/// Reads `e+09`; only exponents of up to three digits.
#[inline]
fn read_exponent(bytes: &[u8], at: &mut usize) -> Option<i32> {
    *at += 1;
    let sign = bytes.get(*at);
    *at += usize::from(matches!(sign, Some(b'+' | b'-')));
    let (exponent, digits) = read_digits(bytes, at, 0);
    if digits == 0 || digits > 3 {
        return None;
    }
    Some(if sign == Some(&b'-') { -(exponent as i32) } else { exponent as i32 })
}

/// Appends `value` in the shortest form that reads back as the same number.
pub(super) fn write_float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else if value.fract() == 0.0 && value.abs() < 1e15 {
        if value.is_sign_negative() {
            out.push(b'-');
        }
        // As an integer, which formats several times faster. Writing to a Vec cannot fail.
        let _ = write!(out, "{}", value.abs() as u64);
    } else {
        let _ = write!(out, "{value:?}");
    }
}

/// The text of a bucket's bound or a quantile as Prometheus has it in `le` and `quantile`: Go's shortest
/// form, with `.0` behind a number that would look like an integer.
pub(super) fn format_bound(value: f64) -> String {
    if value == 0.0 {
        return "0.0".to_owned(); // also for minus zero
    }
    if !value.is_finite() {
        let mut text = Vec::new();
        write_float(&mut text, value);
        return String::from_utf8_lossy(&text).into_owned();
    }
    // The shortest form tells how many digits it takes. Of two such numbers that are equally near, Go takes the
    // even one, as does rounding to a precision.
    let shortest = format!("{value:e}");
    let precision =
        shortest.split('e').next().map_or(0, |text| text.bytes().filter(u8::is_ascii_digit).count() - 1);
    let scientific = format!("{value:.precision$e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..=5).contains(&exponent) {
        let decimals = usize::try_from(precision as i32 - exponent).unwrap_or(0).max(1);
        return format!("{value:.decimals$}");
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(value: f64) -> String {
        let mut out = Vec::new();
        write_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reads_what_go_reads() {
        for (text, value) in [
            ("1", 1.0),
            ("+1", 1.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("-0.25", -0.25),
            ("1e-400", 0.0),
            ("1E5", 1e5),
            ("infinity", f64::INFINITY),
            ("-iNf", f64::NEG_INFINITY),
            ("123456789012345", 123_456_789_012_345.0),
            ("9007199254740993", 9_007_199_254_740_992.0),
            ("0.1", 0.1),
            ("1.7976931348623157e308", f64::MAX),
        ] {
            assert_eq!(parse_float(text.as_bytes()), Some(value), "{text}");
        }
        assert!(parse_float(b"nAn").unwrap().is_nan());
        assert!(parse_float(b"-0").unwrap().is_sign_negative());
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "", ".", "-", "+-1", "1e", "1e400", "-1e400", "+NaN", "-nan", "0x10", "0x1p4", "1p3", "1_000",
            "1,5", "1 ", "1..2", "infin", "\u{661}",
        ] {
            assert_eq!(parse_float(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_float(b"1\xff"), None);
    }

    #[test]
    fn writes_plainly() {
        assert_eq!(written(0.0), "0");
        assert_eq!(written(-0.0), "-0");
        assert_eq!(written(1234.0), "1234");
        assert_eq!(written(1.5), "1.5");
        assert_eq!(written(1e300), "1e300");
        assert_eq!(written(f64::NEG_INFINITY), "-Inf");
        assert_eq!(written(f64::NAN), "NaN");
    }

    #[test]
    fn bounds_look_as_in_prometheus() {
        for (value, text) in [
            (1.0, "1.0"),
            (0.0, "0.0"),
            (-0.0, "0.0"),
            (0.25, "0.25"),
            (100.0, "100.0"),
            (9.0 + 2f64.powi(-16), "9.000015258789062"),
            (999_999.0, "999999.0"),
            (1e6, "1e+06"),
            (1_234_567.5, "1.2345675e+06"),
            (-1e21, "-1e+21"),
            (0.0001, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e300, "1e+300"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(format_bound(value), text);
        }
    }

    proptest! {
        #[test]
        fn every_number_comes_back(bits: u64) {
            let value = f64::from_bits(bits);
            let back = parse_float(written(value).as_bytes()).unwrap();
            prop_assert!(back.to_bits() == bits || value.is_nan() && back.is_nan());
        }

        #[test]
        fn the_short_way_is_the_long_way(digits in "-?[0-9]{0,9}\\.?[0-9]{0,11}(e[+-]?[0-9]{0,2})?") {
            prop_assert_eq!(parse_float(digits.as_bytes()), digits.parse::<f64>().ok());
        }
    }
}
