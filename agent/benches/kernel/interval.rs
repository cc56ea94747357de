//! Ratios of paired measurements → their mean and how sure it is.

/// Student's t for 95 % and the degrees of freedom 1 to 30.
const T95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// A mean with the bounds of its 95 % interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) low: f64,
    pub(crate) mean: f64,
    pub(crate) high: f64,
}

/// The mean ratio of pairs (with, without), by the logarithms' mean and Student's t: ratios multiply.
pub(crate) fn ratio(pairs: &[(f64, f64)]) -> Interval {
    let logs: Vec<f64> = pairs.iter().map(|(with, without)| (with / without).ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let t = T95[logs.len().saturating_sub(2).min(T95.len() - 1)];
    let half = t * (variance / n).sqrt();
    Interval { low: (mean - half).exp(), mean: mean.exp(), high: (mean + half).exp() }
}

/// The value below which a fifth lies: what a piece takes when little interrupts it, and no lucky one.
pub(crate) fn low(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 5]
}
