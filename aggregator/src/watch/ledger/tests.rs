//! Traces of looks, and the rows they come to.

use super::*;
use aftertrace_model::config::ObjectKey;

const fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn ledger(stored: Vec<ObjectVersion>) -> Ledger {
    let subject = Subject {
        cluster: "c".to_owned(),
        kind: "ConfigMap",
        hook: "watch/configmaps".to_owned(),
        is_config: true,
    };
    Ledger::open(subject, stored)
}

fn sight(uid: &str, version: &str, data: &[(&str, &str)], created: i64, written: Option<i64>) -> Sight {
    let key = ObjectKey::derive(&[7; 32], "ConfigMap", "shop", "app");
    let names: Vec<_> = data.iter().map(|(k, _)| *k).collect();
    Sight {
        namespace: "shop".to_owned(),
        name: "app".to_owned(),
        uid: uid.to_owned(),
        resource_version: version.to_owned(),
        created: Some(at(created)),
        written: written.map(at),
        state: json!({"data": names, "metadata": {}}),
        content: Some(key.content(data.iter().map(|(k, v)| (*k, v.as_bytes())))),
    }
}

const FIRST_LIST: How = How::Listed { heard_until: None };

/// One line per row: `event change keys` and `version paths`.
fn told(facts: &Facts) -> Vec<String> {
    let events = facts.events.iter().map(|e| {
        let change = e.attributes.get("change").and_then(Value::as_str).unwrap_or("");
        let keys = e.attributes.get("changed_keys").map(Value::to_string).unwrap_or_default();
        format!("{} {change} {keys}", e.kind).trim().to_owned()
    });
    let objects = facts.objects.iter().map(|o| {
        let what = if o.deleted { "gone" } else { "version" };
        format!("{what} {} {}", o.resource_version, o.changed_paths.join(",")).trim().to_owned()
    });
    events.chain(objects).collect()
}

fn see(ledger: &mut Ledger, sight: &Sight, how: How, seen: i64) -> Vec<String> {
    let mut facts = Facts::default();
    ledger.see(sight, how, at(seen), &mut facts);
    told(&facts)
}

#[test]
fn the_first_list_tells_what_is_and_no_change() {
    let mut ledger = ledger(Vec::new());
    let first = sight("u", "1", &[("a", "1")], 0, None);
    assert_eq!(see(&mut ledger, &first, FIRST_LIST, 100), ["version 1"]);
    assert_eq!(see(&mut ledger, &first, FIRST_LIST, 200), [""; 0], "listed again");
}

#[test]
fn a_change_names_the_keys_whose_values_differ() {
    let mut ledger = ledger(Vec::new());
    see(&mut ledger, &sight("u", "1", &[("a", "1"), ("b", "1"), ("c", "1")], 0, None), FIRST_LIST, 100);
    let changed = sight("u", "2", &[("a", "2"), ("b", "1"), ("d", "1")], 0, Some(110));
    assert_eq!(
        see(&mut ledger, &changed, How::Live, 111),
        [r#"config_changed modified ["a","c","d"]"#, "version 2 data.a,data.c,data.d"]
    );
    let mut labelled = sight("u", "3", &[("a", "2"), ("b", "1"), ("d", "1")], 0, Some(120));
    labelled.state["metadata"] = json!({"labels": {"x": "y"}});
    assert_eq!(
        see(&mut ledger, &labelled, How::Live, 121),
        ["version 3 metadata.labels.x"],
        "no content changed"
    );
    labelled.resource_version = "4".to_owned();
    assert_eq!(see(&mut ledger, &labelled, How::Live, 122), [""; 0], "only what is not kept changed");
}

#[test]
fn what_appears_in_a_running_watch_was_created() {
    let mut ledger = ledger(Vec::new());
    let new = sight("u", "5", &[("a", "1")], 100, None);
    assert_eq!(see(&mut ledger, &new, How::Live, 101), [r#"config_changed created ["a"]"#, "version 5"]);
}

#[test]
fn what_a_later_list_finds_was_created_if_it_is_younger_than_the_last_word() {
    let later = How::Listed { heard_until: Some(at(100)) };
    let old = sight("u", "5", &[("a", "1")], 50, None);
    assert_eq!(see(&mut ledger(Vec::new()), &old, later, 200), ["version 5"]);
    let young = sight("u", "5", &[("a", "1")], 150, None);
    assert_eq!(
        see(&mut ledger(Vec::new()), &young, later, 200),
        [r#"config_changed created ["a"]"#, "version 5"]
    );
}

#[test]
fn a_restart_goes_on_from_what_is_stored() {
    let mut first = ledger(Vec::new());
    let mut facts = Facts::default();
    let one = sight("u", "1", &[("a", "1")], 0, None);
    first.see(&one, FIRST_LIST, at(100), &mut facts);
    let later = How::Listed { heard_until: Some(at(100)) };
    let mut second = ledger(facts.objects.clone());
    assert_eq!(see(&mut second, &one, later, 200), [""; 0], "nothing changed meanwhile");
    let two = sight("u", "2", &[("a", "2")], 0, Some(150));
    assert_eq!(see(&mut second, &two, later, 200), [r#"config_changed modified ["a"]"#, "version 2 data.a"]);
}

#[test]
fn one_change_has_one_id_however_it_is_seen() {
    let one = sight("u", "1", &[("a", "1")], 0, None);
    let two = sight("u", "2", &[("a", "2")], 0, Some(150));
    let id = |how, seen| {
        let mut ledger = ledger(Vec::new());
        let mut facts = Facts::default();
        ledger.see(&one, FIRST_LIST, at(100), &mut facts);
        ledger.see(&two, how, at(seen), &mut facts);
        facts.events[0].event_id
    };
    assert_eq!(id(How::Live, 151), id(How::Listed { heard_until: Some(at(120)) }, 900));
}

#[test]
fn a_change_lies_between_its_floored_write_and_its_sight() {
    let mut ledger = ledger(Vec::new());
    let mut facts = Facts::default();
    ledger.see(&sight("u", "1", &[("a", "1")], 0, None), FIRST_LIST, at(100), &mut facts);
    let seen = at(150).plus_micros(200_000);
    ledger.see(&sight("u", "2", &[("a", "2")], 0, Some(150)), How::Live, seen, &mut facts);
    let prompt = facts.events[0].occurred;
    assert_eq!((prompt.earliest, prompt.at, prompt.latest), (at(150), seen, seen));
    ledger.see(&sight("u", "3", &[("a", "3")], 0, Some(160)), How::Live, at(300), &mut facts);
    let late = facts.events[1].occurred;
    assert_eq!((late.earliest, late.latest), (at(160), at(300)));
    assert!(late.at < at(161), "seen late, it was written in that second all the same");
    ledger.see(&sight("u", "4", &[("a", "4")], 0, None), How::Live, at(400), &mut facts);
    let unknown = facts.events[2].occurred;
    assert_eq!((unknown.at, unknown.latest), (at(400), at(400)), "without a write time, when it was seen");
    assert!(unknown.earliest < at(161), "and at some time after the version before");
}

#[test]
fn what_is_missing_from_a_list_went_since_the_last_word() {
    let mut ledger = ledger(Vec::new());
    let mut facts = Facts::default();
    ledger.see(&sight("u", "1", &[("a", "1")], 0, None), FIRST_LIST, at(100), &mut facts);
    let mut gone = Facts::default();
    ledger.see_absent(&BTreeSet::new(), Some(at(150)), at(200), &mut gone);
    assert_eq!(told(&gone), ["object_deleted", "gone 1"]);
    let occurred = gone.events[0].occurred;
    assert_eq!((occurred.earliest, occurred.latest), (at(150), at(200)));
    assert_eq!(gone.events[0].attributes["inferred"], json!(true));
    let mut again = Facts::default();
    ledger.see_absent(&BTreeSet::new(), Some(at(200)), at(300), &mut again);
    assert_eq!(told(&again), [""; 0], "once");
}

#[test]
fn a_deletion_that_is_told_is_certain_and_once() {
    let mut ledger = ledger(Vec::new());
    let one = sight("u", "1", &[("a", "1")], 0, None);
    see(&mut ledger, &one, FIRST_LIST, 100);
    let mut facts = Facts::default();
    let last = Sight { resource_version: "9".to_owned(), ..one };
    ledger.see_deleted(&last, at(150), &mut facts);
    ledger.see_deleted(&last, at(160), &mut facts);
    assert_eq!(told(&facts), ["object_deleted", "gone 9"]);
    assert!(!facts.events[0].attributes.contains_key("inferred"));
}

#[test]
fn a_name_given_to_a_new_object_writes_the_old_one_off() {
    let mut ledger = ledger(Vec::new());
    see(&mut ledger, &sight("u", "1", &[("a", "1")], 0, None), FIRST_LIST, 100);
    let new = sight("v", "7", &[("a", "1")], 150, None);
    assert_eq!(
        see(&mut ledger, &new, How::Live, 151),
        ["object_deleted", r#"config_changed created ["a"]"#, "gone 1", "version 7"]
    );
}

#[test]
fn hashes_under_another_key_are_a_new_version_and_no_change() {
    let mut ledger = ledger(Vec::new());
    see(&mut ledger, &sight("u", "1", &[("a", "1")], 0, None), FIRST_LIST, 100);
    let mut rekeyed = sight("u", "1", &[("a", "1")], 0, None);
    rekeyed.content =
        Some(ObjectKey::derive(&[8; 32], "ConfigMap", "shop", "app").content([("a", b"1".as_slice())]));
    assert_eq!(see(&mut ledger, &rekeyed, How::Live, 101), ["version 1"]);
}
