//! What the ring buffer carries when more is written than can be read, and that nothing is lost unsaid.

use aftertrace_agent::kernel::Kernel;

use crate::row;
use crate::storm::{Outcome, overload};

/// Records: ten million unless `AFTERTRACE_RING_RECORDS` gives another number.
const RECORDS: u64 = 10_000_000;

/// Threads that write.
const THREADS: u64 = 2;

/// Measures, with the ring buffer that agents have.
pub(crate) async fn measure(kernel: Kernel) {
    let records = std::env::var("AFTERTRACE_RING_RECORDS").ok().and_then(|text| text.parse().ok());
    let records: u64 = records.unwrap_or(RECORDS);
    let folder = std::env::temp_dir().join(format!("aftertrace-overload-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    let outcome = overload(kernel, &folder, THREADS, records / THREADS).await;
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
    let Outcome { emitted, read, foreign, lost, losses, elapsed } = outcome;
    println!("{emitted} emitted, {read} read, {lost} lost ({losses:?}), {foreign} of others");
    let per_second = |count: u64| format!("{:.0}", count as f64 / elapsed.as_secs_f64());
    row("overload, records emitted", &per_second(emitted), "1/s", "");
    row("overload, records decoded", &per_second(read), "1/s", "");
    row("overload, lost and counted", &format!("{:.1}", lost as f64 / emitted as f64 * 100.0), "%", "");
    let unsaid = i128::from(emitted) - i128::from(read) - i128::from(lost);
    row(&format!("of {emitted} records, neither decoded nor counted"), &unsaid.to_string(), "records", "0");
}
