//! Renderings by an independent jinja2 (fixtures/templates/expected.json), Python's `json.dumps`, and hostile templates.

use super::*;
use serde_json::json;
use std::path::Path;

fn variables(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn plain(template: &str) -> std::result::Result<String, String> {
    render(template, &Map::new()).map_err(|e| e.to_string())
}

#[test]
fn renderings_equal_jinja2s() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates");
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap();
    let mut differences = Vec::new();
    let mut checked = 0;
    for (name, cases) in expected["expected"].as_object().unwrap() {
        let template = std::fs::read_to_string(dir.join(name)).unwrap();
        for (case, outcome) in cases.as_object().unwrap() {
            let input = &expected["cases"][case];
            let mut variables = variables(input["variables"].clone());
            variables.insert("messages".into(), input["messages"].clone());
            variables.insert("tools".into(), input["tools"].clone());
            let rendered = render(&template, &variables);
            match (outcome.get("ok").and_then(Value::as_str), rendered) {
                (Some(expected), Ok(rendered)) if rendered == expected => {}
                (None, Err(_)) => {}
                (expected, rendered) => differences.push(format!("{name}/{case}:\n  expected {expected:?}\n  rendered {rendered:?}")),
            }
            checked += 1;
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(checked >= 60, "only {checked} renderings");
}

#[test]
fn tojson_is_json_dumps() {
    // python: json.dumps(value, ensure_ascii=False, ...)
    let value = json!({"b": [1, 2.0, 1e16, 1e-5, -0.0, true, null], "a": {"<&>'": "é\u{1f642}\"\\\n\t\u{1}"}, "e": {}, "f": []});
    let case = |arguments: &str| render(&format!("{{{{ v | tojson{arguments} }}}}"), &variables(json!({"v": value}))).unwrap();
    assert_eq!(
        case(""),
        "{\"b\": [1, 2.0, 1e+16, 1e-05, -0.0, true, null], \"a\": {\"<&>'\": \"é🙂\\\"\\\\\\n\\t\\u0001\"}, \"e\": {}, \"f\": []}"
    );
    assert_eq!(
        case("(ensure_ascii=true, separators=(',', ':'), sort_keys=true)"),
        "{\"a\":{\"<&>'\":\"\\u00e9\\ud83d\\ude42\\\"\\\\\\n\\t\\u0001\"},\"b\":[1,2.0,1e+16,1e-05,-0.0,true,null],\"e\":{},\"f\":[]}"
    );
    let short = |arguments: &str| render(&format!("{{{{ v | tojson{arguments} }}}}"), &variables(json!({"v": {"a": [1, {}]}}))).unwrap();
    assert_eq!(short("(indent=2)"), "{\n  \"a\": [\n    1,\n    {}\n  ]\n}");
    assert_eq!(short("(2)"), short("(indent=2)"));
    assert_eq!(short("(indent=none)"), "{\"a\": [1, {}]}");
    assert!(plain("{{ nothing | tojson }}").is_err());
}

#[test]
fn what_templates_use_of_python() {
    let cases = [
        ("{{ 'a b c'.rsplit(' ', 1) | join('|') }}", "a b|c"),
        ("{{ 'xay'.removeprefix('x').removesuffix('y') }}", "a"),
        ("{{ 'k=v=w'.partition('=') | join('|') }}", "k|=|v=w"),
        ("{{ 'kv'.partition('=') | join('|') }}", "kv||"),
        ("{{ [true, none, 1.0, 'x'] }}", "[True, None, 1.0, 'x']"),
        ("  {% if true %}\n  x\n  {%- endif %}\n", "  x"),
        ("a{% generation %}\nb\n{% endgeneration %}\nc", "ab\nc"),
        ("a\n  {%- generation -%}\n  b\n  {%- endgeneration -%}\n c", "abc"),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% continue %}{% endif %}{{ m }}{{ loop.last }}{% endfor %}", "1False3True"),
        ("{{ '<b>' }}{{ '&' ~ 1 }}", "<b>&1"),
        ("{{ strftime_now('%%') }}", "%"),
    ];
    for (template, expected) in cases {
        assert_eq!(plain(template).unwrap(), expected, "{template}");
    }
}

#[test]
fn hostile_templates_are_errors() {
    let nested = format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let cases = [
        ("too long", "x".repeat(MAX_TEMPLATE_BYTES + 1), "at most"),
        ("syntax", "{% if %}".into(), "line 1"),
        ("raised", "{{ raise_exception('no tools') }}".into(), "no tools"),
        ("undefined filter", "{{ 1 | nonsense }}".into(), "nonsense"),
        ("attribute of nothing", "{{ a.b.c }}".into(), "line 1"),
        ("nesting", format!("{{{{ {nested} }}}}"), "line 1"),
        ("range", "{% for i in range(1000000000) %}{% endfor %}".into(), "line 1"),
        ("loops", "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}".into(), "too many instructions"),
        ("recursion", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(), "recursion"),
        ("output", "{% set x = 'x' * 1000000 %}{% for i in range(100) %}{{ x }}{% endfor %}".into(), "longer than"),
        ("object model", "{{ ''.__class__.__mro__ }}".into(), "line 1"),
        ("globals", "{{ lipsum.__globals__['os'].popen('id').read() }}".into(), "line 1"),
    ];
    for (name, template, expected) in cases {
        let started = std::time::Instant::now();
        let error = plain(&template).expect_err(name);
        assert!(error.starts_with("chat template: ") && error.contains(expected), "{name}: {error}");
        // A minute, not a second: the machine may be busy with other tests.
        assert!(started.elapsed().as_secs() < 60, "{name} took {:?}", started.elapsed());
    }
}
