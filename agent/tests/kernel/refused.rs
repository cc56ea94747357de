//! What a kernel withholds is named, and costs no more than it must.
//!
//! On an ordinary kernel these say that nothing is refused by mistake; the virtual machines boot the others.

use std::fs;
use std::path::Path;

use aftertrace_agent::kernel::{Kernel, KernelConfig, LoadError, SubjectStatus};

/// Where a kernel offers its types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Whether the kernel lets nobody read its memory, not even root.
fn is_confidential() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown").is_ok_and(|text| text.contains("[confidentiality]"))
}

/// What became of each subject; nothing if this user may load no programs at all.
async fn subjects_of(check: impl FnOnce(Result<&[SubjectStatus], &LoadError>)) {
    match Kernel::load(&KernelConfig::default()) {
        Ok(kernel) => check(Ok(kernel.attached.subjects())),
        Err(error @ LoadError::NotPermitted(_)) => println!("SKIPPED: {error}"),
        Err(error) => check(Err(&error)),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_kernel_without_types_is_told_what_it_needs_and_no_other_is() {
    let has_types = Path::new(TYPES).exists();
    subjects_of(|loaded| match loaded {
        Ok(_) => assert!(has_types, "loaded without the kernel's types"),
        Err(error @ LoadError::NoBtf { .. }) => {
            assert!(!has_types, "{error}");
            assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF=y"), "{error}");
        }
        Err(error) => panic!("{error}: {error:?}"),
    })
    .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_kernel_in_lockdown_is_named_as_such_and_no_other_is() {
    let is_confidential = is_confidential();
    subjects_of(|loaded| {
        let subjects = match loaded {
            Ok(subjects) => subjects,
            // Then nothing is tried, and nothing can be said of lockdown.
            Err(LoadError::NoBtf { .. }) => return assert!(!Path::new(TYPES).exists()),
            Err(error) => panic!("{error}: {error:?}"),
        };
        assert!(!subjects.is_empty());
        for status in subjects {
            if is_confidential {
                assert_eq!(status.tier, None, "{status:?}");
                assert!(!status.missing_hooks.is_empty(), "{status:?}");
            }
            for missing in &status.missing_hooks {
                let why = missing.error.to_string();
                assert_eq!(why.contains("confidentiality"), is_confidential, "{}: {why}", missing.hook);
            }
        }
    })
    .await;
}
