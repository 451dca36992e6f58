//! Plain line charts as SVG.

use std::fmt::Write;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 330.0;
/// Left, top, right (with room for labels), bottom.
const MARGIN: (f64, f64, f64, f64) = (58.0, 40.0, 92.0, 46.0);
/// Okabe and Ito's colours, which colour-blind people can tell apart.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#555555"];
/// Least distance of two labels.
const LABEL_STEP: f64 = 13.0;

/// A line, labelled where it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its label.
    pub label: String,
    /// Points by ascending x.
    pub points: Vec<(f64, f64)>,
    /// Drawn dashed.
    pub dashed: bool,
}

/// A chart: y from 0 on, x on a scale of powers of two or a plain one.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Under the x axis.
    pub x_label: String,
    /// Beside the y axis.
    pub y_label: String,
    /// Equal steps are equal factors.
    pub logarithmic: bool,
    /// Marks of the x axis, with their texts.
    pub ticks: Vec<(f64, String)>,
    /// Lines.
    pub lines: Vec<Line>,
}

/// The charts beside each other.
pub fn svg(charts: &[Chart]) -> String {
    let (width, height) = (WIDTH * charts.len().max(1) as f64, HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (i, chart) in charts.iter().enumerate() {
        // Writing into a string cannot fail, here and below.
        let _ = writeln!(out, "<g transform=\"translate({} 0)\">\n{}</g>", i as f64 * WIDTH, draw(chart));
    }
    out + "</svg>\n"
}

fn draw(chart: &Chart) -> String {
    let (left, top, right, bottom) = MARGIN;
    let (w, h) = (WIDTH - left - right, HEIGHT - top - bottom);
    let points = || chart.lines.iter().flat_map(|l| &l.points).filter(|p| p.0.is_finite() && p.1.is_finite());
    let scale = |x: f64| if chart.logarithmic { x.max(f64::MIN_POSITIVE).log2() } else { x };
    let xs = points().map(|p| p.0).chain(chart.ticks.iter().map(|t| t.0)).map(scale);
    let (low, high) = xs.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let step = nice(points().map(|p| p.1).fold(0.0, f64::max) / 4.0);
    let most = (points().map(|p| p.1).fold(0.0, f64::max) / step).ceil().max(1.0) * step;
    let x = |value: f64| left + w * if high > low { (scale(value) - low) / (high - low) } else { 0.5 };
    let y = |value: f64| top + h * (1.0 - value / most);
    let mut out = format!("<text x=\"{left}\" y=\"18\" font-size=\"14\" font-weight=\"bold\">{}</text>\n", escaped(&chart.title));
    let _ = writeln!(out, "<text x=\"{left}\" y=\"{}\" fill=\"#555\">{}</text>", top - 8.0, escaped(&chart.y_label));
    for i in 0..=(most / step).round() as usize {
        let (value, at) = (i as f64 * step, y(i as f64 * step));
        let _ = writeln!(out, "<path d=\"M{left} {at:.1}h{w}\" stroke=\"#e4e4e4\"/>");
        let text = number(value);
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", left - 6.0, at + 4.0);
    }
    for (value, text) in &chart.ticks {
        let at = x(*value);
        let _ = writeln!(out, "<path d=\"M{at:.1} {}v4\" stroke=\"black\"/>", top + h);
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", top + h + 17.0, escaped(text));
    }
    let _ = writeln!(out, "<path d=\"M{left} {top}V{}H{}\" fill=\"none\" stroke=\"black\"/>", top + h, left + w);
    let (middle, under) = (left + w / 2.0, top + h + 36.0);
    let _ = writeln!(out, "<text x=\"{middle}\" y=\"{under}\" text-anchor=\"middle\">{}</text>", escaped(&chart.x_label));
    let mut ends: Vec<(f64, usize)> = Vec::new();
    for (i, line) in chart.lines.iter().enumerate() {
        let there = line.points.iter().filter(|p| p.0.is_finite() && p.1.is_finite());
        let path: Vec<String> = there.map(|p| format!("{:.1} {:.1}", x(p.0), y(p.1))).collect();
        let (Some(last), colour) = (line.points.last(), colour(i)) else { continue };
        let dashes = if line.dashed { " stroke-dasharray=\"5 3\"" } else { "" };
        let _ = writeln!(out, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>", path.join("L"));
        ends.push((y(last.1), i));
    }
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = top;
    for (at, i) in ends {
        let at = at.max(free);
        free = at + LABEL_STEP;
        let (label, colour) = (chart.lines.get(i).map_or("", |l| l.label.as_str()), colour(i));
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>", left + w + 6.0, at + 4.0, escaped(label));
    }
    out
}

fn colour(line: usize) -> &'static str {
    COLOURS.get(line % COLOURS.len()).copied().unwrap_or("black")
}

/// A round step of at least `least`: 1, 2 or 5 times a power of ten.
fn nice(least: f64) -> f64 {
    if !(least.is_finite() && least > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|&n| n >= least * 0.999).unwrap_or(10.0 * power)
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_and_labelled_inside_the_picture() {
        let line = |label: &str, points: &[(f64, f64)]| Line { label: label.into(), points: points.to_vec(), dashed: false };
        let chart = Chart {
            title: "a < b".into(),
            x_label: "depth".into(),
            y_label: "GB/s".into(),
            logarithmic: true,
            ticks: vec![(1.0, "1".into()), (64.0, "64".into())],
            lines: vec![line("one", &[(1.0, 0.2), (8.0, 1.9)]), line("two", &[(1.0, 0.1), (64.0, 1.9)]), line("none", &[])],
        };
        let svg = svg(&[chart.clone(), chart]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.matches("<g ").count() == 2);
        assert_eq!((svg.matches(">one<").count(), svg.matches(">two<").count(), svg.matches(">none<").count()), (2, 2, 0));
        // 8 is half way from 1 to 64; 1.9 of 2.
        let (left, top, right, bottom) = MARGIN;
        let at = format!("{:.1} {:.1}", left + (WIDTH - left - right) / 2.0, top + (HEIGHT - top - bottom) * 0.05);
        assert!(svg.contains(&at) && svg.contains("a &lt; b"), "{at} {svg}");
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([0.24, 0.5, 0.51, 3.0, 0.0].map(nice), [0.5, 0.5, 1.0, 5.0, 1.0]);
        assert_eq!([0.0, 0.5, 2.0, 1200.0].map(number), ["0", "0.5", "2", "1200"]);
    }
}
