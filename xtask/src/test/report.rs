//! Turns the lines of `cargo test -- --show-output` into counts, skips with reasons, and a table.

use std::collections::BTreeMap;

use crate::table;

/// What a test prints to say that it cannot run here.
const SKIPPED: &str = "SKIPPED:";

/// The outcome of all test programs.
#[derive(Debug, Default)]
pub(crate) struct Report {
    suites: Vec<Suite>,
    section: Section,
    /// The test whose output is being read.
    current: Option<String>,
    notes: Vec<String>,
    broken: Vec<String>,
}

/// One test program.
#[derive(Debug, Default)]
struct Suite {
    name: String,
    passed: usize,
    failures: Vec<String>,
    /// Test to reason; a test that skips several cases is one test.
    skips: BTreeMap<String, String>,
    ended: bool,
}

/// Which part of a test program's output is being read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Section {
    #[default]
    Run,
    Successes,
    Failures,
}

impl Report {
    /// Reads one line; returns whether a person wants to see it.
    pub(crate) fn feed(&mut self, line: &str) -> bool {
        let text = line.trim();
        if let Some(name) = suite_name(text) {
            self.close_suite();
            self.suites.push(Suite { name, ..Suite::default() });
            return true;
        }
        match text {
            "successes:" => self.enter(Section::Successes),
            "failures:" => self.enter(Section::Failures),
            _ => match text.strip_prefix("test result: ") {
                Some(result) => self.conclude(result),
                None => self.feed_within(text),
            },
        }
        self.section != Section::Successes
    }

    fn feed_within(&mut self, text: &str) {
        if let Some(test) = output_heading(text) {
            self.current = Some(test.to_owned());
        } else if self.section == Section::Run
            && let Some((test, outcome)) = outcome(text)
        {
            self.record(test, outcome);
        } else if self.section == Section::Successes
            && let Some(reason) = text.strip_prefix(SKIPPED)
            && let Some(test) = self.current.clone()
        {
            let suite = self.suite();
            let reason = reason.trim().to_owned();
            if suite.skips.insert(test, reason).is_none() {
                suite.passed = suite.passed.saturating_sub(1);
            }
        }
    }

    fn record(&mut self, test: &str, outcome: &str) {
        let suite = self.suite();
        if outcome == "ok" {
            suite.passed += 1;
        } else if outcome == "FAILED" {
            suite.failures.push(test.to_owned());
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason.trim_start_matches([',', ' ']);
            let reason = if reason.is_empty() { "ignored without a reason" } else { reason };
            suite.skips.insert(test.to_owned(), reason.to_owned());
        }
    }

    /// Takes the test program's own counts: a line `test … ok` can be torn by what a child process wrote.
    fn conclude(&mut self, result: &str) {
        self.enter(Section::Run);
        let suite = self.suite();
        suite.ended = true;
        let count = |what| count_of(result, what);
        if let (Some(passed), Some(failed), Some(ignored)) =
            (count("passed"), count("failed"), count("ignored"))
        {
            let skipped_by_themselves = suite.skips.len().saturating_sub(ignored);
            suite.passed = passed.saturating_sub(skipped_by_themselves);
            for _ in suite.failures.len()..failed {
                suite.failures.push("a test whose name was lost in the output".to_owned());
            }
        }
    }

    /// A test program of this name begins, for a runner that is not cargo.
    pub(crate) fn begin(&mut self, name: String) {
        self.close_suite();
        self.suites.push(Suite { name, ..Suite::default() });
    }

    /// The test program that began last is over. An exit code that no test accounts for is a failure, and so
    /// is a run without any test: a filter that takes none any more must not pass for a success.
    pub(crate) fn finish(&mut self, code: i32) {
        self.close_suite();
        let suite = self.suite();
        if code != 0 && suite.failures.is_empty() {
            suite.failures.push(format!("ended with {code}, though no test failed"));
        }
        if suite.passed + suite.failures.len() + suite.skips.len() == 0 {
            suite.failures.push("ran no test".to_owned());
        }
    }

    /// What another machine's report has, after what is here.
    pub(crate) fn add(&mut self, mut other: Self) {
        self.close_suite();
        other.close_suite();
        self.suites.append(&mut other.suites);
        self.notes.append(&mut other.notes);
        self.broken.append(&mut other.broken);
    }

    /// Something that would have run, and could not.
    pub(crate) fn skip(&mut self, suite: &str, what: String, why: &str) {
        if self.suites.last().is_none_or(|last| last.name != suite) {
            self.begin(suite.to_owned());
        }
        let suite = self.suite();
        suite.ended = true;
        suite.skips.insert(what, why.to_owned());
    }

    /// The run is over; a failure that no test accounts for counts as one.
    pub(crate) fn end(&mut self, success: bool) {
        self.close_suite();
        if !success && self.failed() == 0 {
            self.broken.push("cargo test failed, though no test did".to_owned());
        }
        if success && self.suites.is_empty() {
            self.broken.push("no test program ran".to_owned());
        }
    }

    /// The run stopped before its end.
    pub(crate) fn broke(&mut self, why: String) {
        self.close_suite();
        self.broken.push(why);
    }

    /// Something else that a reader must know: a missing tool, for example.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Failed tests, broken test programs and broken runs.
    pub(crate) fn failed(&self) -> usize {
        self.broken.len() + self.suites.iter().map(|suite| suite.failures.len()).sum::<usize>()
    }

    fn passed(&self) -> usize {
        self.suites.iter().map(|suite| suite.passed).sum()
    }

    fn skipped(&self) -> usize {
        self.suites.iter().map(|suite| suite.skips.len()).sum()
    }

    /// The table, what could not run and why, what failed, and the last line with the counts.
    pub(crate) fn render(&self) -> String {
        let mut text = String::from("\n");
        let mut rows = vec![["tests", "passed", "failed", "skipped"].map(str::to_owned).to_vec()];
        for suite in &self.suites {
            let counts = [suite.passed, suite.failures.len(), suite.skips.len()];
            if counts != [0, 0, 0] {
                rows.push(
                    [vec![suite.name.clone()], counts.map(|count| count.to_string()).to_vec()].concat(),
                );
            }
        }
        text += &table::render(&rows);
        text += &self.render_skips();
        let failures = self
            .suites
            .iter()
            .flat_map(|suite| suite.failures.iter().map(move |test| format!("{}: {test}", suite.name)));
        let failures: Vec<String> = failures.chain(self.broken.iter().cloned()).collect();
        if !failures.is_empty() {
            text += &format!("\nFailed:\n  {}\n", failures.join("\n  "));
        }
        text +=
            &format!("\n{} passed, {} failed, {} skipped\n", self.passed(), self.failed(), self.skipped());
        text
    }

    fn render_skips(&self) -> String {
        let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for suite in &self.suites {
            for (test, reason) in &suite.skips {
                by_reason.entry(reason).or_default().push(format!("{}: {test}", suite.name));
            }
        }
        let mut text = String::new();
        if !by_reason.is_empty() || !self.notes.is_empty() {
            text += "\nCould not run here:\n";
        }
        for (reason, tests) in by_reason {
            text += &format!("  {reason}\n    {}\n", tests.join("\n    "));
        }
        for note in &self.notes {
            text += &format!("  {note}\n");
        }
        text
    }

    fn suite(&mut self) -> &mut Suite {
        if self.suites.is_empty() {
            self.suites.push(Suite { name: "before the first test program".to_owned(), ..Suite::default() });
        }
        self.suites.last_mut().expect("a suite was pushed if there was none")
    }

    fn enter(&mut self, section: Section) {
        self.section = section;
        self.current = None;
    }

    fn close_suite(&mut self) {
        self.enter(Section::Run);
        if let Some(suite) = self.suites.last_mut()
            && !suite.ended
        {
            suite.ended = true;
            suite.failures.push("ended before its result (crashed or was killed)".to_owned());
        }
    }
}

/// `Running unittests src/lib.rs (target/debug/deps/xtask-0123)` or `Doc-tests xtask` names a test program.
fn suite_name(text: &str) -> Option<String> {
    if let Some(package) = text.strip_prefix("Doc-tests ") {
        return Some(format!("{package} documentation"));
    }
    let (source, program) = text.strip_prefix("Running ")?.strip_suffix(')')?.split_once(" (")?;
    let source = source.trim_start_matches("unittests ");
    let program = program.rsplit('/').next()?;
    let name = program.rsplit_once('-').map_or(program, |(name, _hash)| name);
    Some(format!("{name} {source}"))
}

/// `---- module::test stdout ----` comes before a test's output.
fn output_heading(text: &str) -> Option<&str> {
    text.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// `test module::test ... ok`.
fn outcome(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("test ")?.rsplit_once(" ... ")
}

/// The number before a word in `ok. 3 passed; 0 failed; 1 ignored; …`.
fn count_of(result: &str, word: &str) -> Option<usize> {
    let words: Vec<&str> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    let position = words.iter().position(|found| *found == word)?;
    words.get(position.checked_sub(1)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a run and compares the last line of its report.
    fn check(lines: &str, success: bool, expected: &str) -> String {
        let mut report = Report::default();
        for line in lines.lines() {
            report.feed(line);
        }
        report.end(success);
        let text = report.render();
        assert_eq!(text.lines().last(), Some(expected), "{text}");
        text
    }

    const HEAD: &str =
        "     Running unittests src/lib.rs (target/debug/deps/aftertrace_model-0123456789abcdef)\n";

    #[test]
    fn counts_what_passed() {
        let run = "running 2 tests\ntest a ... ok\ntest b::c - should panic ... ok\n\n\
                   test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let text = check(&format!("{HEAD}{run}"), true, "2 passed, 0 failed, 0 skipped");
        assert!(text.contains("aftertrace_model src/lib.rs"), "{text}");
    }

    #[test]
    fn a_skip_is_not_a_pass() {
        let run = "test kernel::kill ... ok\ntest time ... ok\n\nsuccesses:\n\n---- kernel::kill stdout ----\n\
                   SKIPPED: no root\nSKIPPED: no root\n\n\nsuccesses:\n    kernel::kill\n    time\n\n\
                   test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let text = check(&format!("{HEAD}{run}"), true, "1 passed, 0 failed, 1 skipped");
        assert!(text.contains("  no root\n    aftertrace_model src/lib.rs: kernel::kill\n"), "{text}");
    }

    #[test]
    fn what_a_test_prints_elsewhere_is_no_skip() {
        let run = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nthe word SKIPPED: in a line\n\n\
                   test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        check(&format!("{HEAD}{run}"), true, "1 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn a_failed_test_stays_failed_whatever_it_printed() {
        let run = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nSKIPPED: no root\npanicked\n\n\
                   failures:\n    a\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        let text = check(&format!("{HEAD}{run}"), false, "0 passed, 1 failed, 0 skipped");
        assert!(text.contains("Failed:\n  aftertrace_model src/lib.rs: a\n"), "{text}");
    }

    #[test]
    fn lines_torn_by_a_child_process_lose_no_test() {
        let run = "test a ... child speaks\nok\ntest b ... child speaks\nFAILED\ntest c ... ok\n\
                   test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured\n";
        check(&format!("{HEAD}{run}"), false, "2 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn an_ignored_test_is_a_skip_with_its_reason() {
        let run = "test a ... ignored, needs a cluster\ntest b ... ignored\n\
                   test result: ok. 0 passed; 0 failed; 2 ignored\n";
        let text = check(&format!("{HEAD}{run}"), true, "0 passed, 0 failed, 2 skipped");
        assert!(text.contains("needs a cluster") && text.contains("ignored without a reason"), "{text}");
    }

    #[test]
    fn a_crashed_program_is_a_failure() {
        let text = check(&format!("{HEAD}test a ... ok\n"), false, "1 passed, 1 failed, 0 skipped");
        assert!(text.contains("crashed"), "{text}");
    }

    #[test]
    fn the_next_program_does_not_inherit_the_section() {
        let run = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nhello\n   Doc-tests aftertrace_model\n\
                   test src/lib.rs - (line 3) ... ok\ntest result: ok. 1 passed\n";
        let text = check(&format!("{HEAD}{run}"), false, "2 passed, 1 failed, 0 skipped");
        assert!(text.contains("aftertrace_model documentation"), "{text}");
    }

    /// What a program in another machine wrote, and how it ended.
    fn finished(lines: &str, code: i32) -> String {
        let mut report = Report::default();
        report.begin("kernel on Linux 6.1".to_owned());
        for line in lines.lines() {
            report.feed(line);
        }
        report.finish(code);
        report.render()
    }

    #[test]
    fn a_program_of_another_machine_counts_as_one_of_cargos() {
        let run = "test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let text = finished(run, 0);
        assert!(text.contains("kernel on Linux 6.1  1 "), "{text}");
        assert!(text.ends_with("1 passed, 0 failed, 0 skipped\n"), "{text}");
        assert!(finished(run, 139).contains("ended with 139, though no test failed"));
        assert!(finished("test a ... ok\n", 101).contains("crashed or was killed"));
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n";
        assert!(finished(none, 0).ends_with("0 passed, 1 failed, 0 skipped\n"));
    }

    #[test]
    fn reports_of_several_machines_add_up() {
        let mut all = Report::default();
        for outcome in ["ok", "FAILED"] {
            let mut one = Report::default();
            one.begin(format!("kernel where it is {outcome}"));
            one.feed(&format!("test a ... {outcome}"));
            one.feed("test result: x.");
            one.broke("stopped".to_owned());
            all.add(one);
        }
        let text = all.render();
        assert!(text.contains("kernel where it is FAILED: a\n  stopped\n  stopped\n"), "{text}");
        assert!(text.ends_with("1 passed, 3 failed, 0 skipped\n"), "{text}");
    }

    #[test]
    fn what_could_not_run_at_all_is_a_skip_of_each() {
        let mut report = Report::default();
        for machine in ["Linux 6.1", "Linux 6.12"] {
            report.skip("vm-test", machine.to_owned(), "no qemu");
        }
        let text = report.render();
        assert!(text.contains("  no qemu\n    vm-test: Linux 6.1\n    vm-test: Linux 6.12\n"), "{text}");
        assert!(text.ends_with("0 passed, 0 failed, 2 skipped\n"), "{text}");
    }

    #[test]
    fn a_build_failure_and_an_empty_run_are_failures() {
        check("error: could not compile `aft`\n", false, "0 passed, 1 failed, 0 skipped");
        check("", true, "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn shows_the_run_and_hides_the_output_of_passing_tests() {
        let mut report = Report::default();
        assert!(report.feed("test a ... ok"));
        assert!(!report.feed("successes:"));
        assert!(!report.feed("chatter"));
        assert!(report.feed("test result: ok. 1 passed"));
    }
}
