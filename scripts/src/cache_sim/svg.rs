//! A picture of the hit rates: a panel for each load, a line for each policy, labelled where it ends.

use std::fmt::Write;

const PANEL_WIDTH: f64 = 460.0;
const PANEL_HEIGHT: f64 = 340.0;
/// Left, top, right (with room for labels), bottom.
const MARGIN: (f64, f64, f64, f64) = (46.0, 34.0, 96.0, 42.0);
const COLUMNS: usize = 2;
const LEGEND_HEIGHT: f64 = 64.0;
/// Least distance of two labels.
const LABEL_STEP: f64 = 13.0;
/// Okabe and Ito's colours, which colour-blind people can tell apart; the first is drawn thick.
const COLOURS: [&str; 7] = ["#d55e00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#b8860b", "#555555"];

/// One load.
pub struct Panel {
    pub title: String,
    /// Share of the experts that one step uses, in percent.
    pub cliff: f64,
    /// By policy: hit rate in percent for each window.
    pub rates: Vec<Vec<f64>>,
}

/// The picture. `windows` are in percent of the experts; the last policy is drawn dashed.
pub fn picture(policies: &[&str], windows: &[usize], panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL_WIDTH * COLUMNS as f64, LEGEND_HEIGHT + PANEL_HEIGHT * rows as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Hit rate of cache policies by window size</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    // Writing into a string cannot fail, here and below.
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"20\" font-size=\"15\" font-weight=\"bold\">Hit rate by window size, recorded routing replayed</text>",
        MARGIN.0
    );
    for (i, name) in policies.iter().enumerate() {
        let x = MARGIN.0 + i as f64 * (width - MARGIN.0) / policies.len() as f64;
        let _ =
            writeln!(svg, "<path d=\"M{x:.1} 40h22\" {}/><text x=\"{:.1}\" y=\"44\">{name}</text>", stroke(i, policies.len()), x + 27.0);
    }
    for (i, panel) in panels.iter().enumerate() {
        let (x, y) = ((i % COLUMNS) as f64 * PANEL_WIDTH, LEGEND_HEIGHT + (i / COLUMNS) as f64 * PANEL_HEIGHT);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">\n{}</g>", draw(panel, policies, windows));
    }
    svg + "</svg>\n"
}

fn stroke(policy: usize, policies: usize) -> String {
    let width = if policy == 0 { 3.0 } else { 1.6 };
    let dashes = if policy + 1 == policies { " stroke-dasharray=\"5 3\"" } else { "" };
    format!("fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"{dashes}", COLOURS[policy % COLOURS.len()])
}

fn draw(panel: &Panel, policies: &[&str], windows: &[usize]) -> String {
    let (left, top, right, bottom) = MARGIN;
    let (w, h) = (PANEL_WIDTH - left - right, PANEL_HEIGHT - top - bottom);
    let most = windows.last().copied().unwrap_or(1) as f64;
    let x = |percent: f64| left + w * percent / most;
    let y = |percent: f64| top + h * (1.0 - percent / 100.0);
    let mut out = format!("<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>\n", top - 12.0, panel.title);
    for percent in [0.0, 20.0, 40.0, 60.0, 80.0, 100.0] {
        let at = y(percent);
        let _ = writeln!(
            out,
            "<path d=\"M{left} {at:.1}h{w}\" stroke=\"#e4e4e4\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{percent}%</text>",
            left - 6.0,
            at + 4.0
        );
    }
    for percent in [0.0, 10.0, 20.0, 30.0, 40.0, 50.0] {
        let at = x(percent);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {}v4\" stroke=\"black\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{percent}%</text>",
            top + h,
            top + h + 17.0
        );
    }
    let (cliff, base) = (x(panel.cliff), top + h);
    let _ = writeln!(out, "<path d=\"M{cliff:.1} {top}V{base}\" stroke=\"#999\" stroke-dasharray=\"2 3\"/>");
    let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{}\" fill=\"#666\" font-size=\"11\">one step's experts</text>", cliff + 4.0, top + 11.0);
    let _ = writeln!(out, "<path d=\"M{left} {top}V{base}H{}\" fill=\"none\" stroke=\"black\"/>", left + w);
    let _ =
        writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">window, share of all experts</text>", left + w / 2.0, top + h + 34.0);
    // The first policy last, on top of the others.
    for (i, rates) in panel.rates.iter().enumerate().rev() {
        let points: Vec<String> = windows.iter().zip(rates).map(|(&at, &rate)| format!("{:.1} {:.1}", x(at as f64), y(rate))).collect();
        let _ = writeln!(out, "<path d=\"M{}\" {}/>", points.join("L"), stroke(i, policies.len()));
    }
    let ends: Vec<f64> = panel.rates.iter().map(|rates| y(rates.last().copied().unwrap_or(0.0))).collect();
    for ((i, name), at) in policies.iter().enumerate().zip(spread(&ends, top + 4.0, base)) {
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" fill=\"{}\" font-size=\"11\">{name}</text>",
            left + w + 6.0,
            at + 4.0,
            COLOURS[i % COLOURS.len()]
        );
    }
    out
}

/// Positions near `wanted`, in the same order and [`LABEL_STEP`] apart, between `top` and `bottom` as far as there is room.
fn spread(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    let mut placed = wanted.to_vec();
    let mut least = top;
    for &i in &order {
        placed[i] = placed[i].max(least);
        least = placed[i] + LABEL_STEP;
    }
    let mut most = bottom.max(top + LABEL_STEP * wanted.len().saturating_sub(1) as f64);
    for &i in order.iter().rev() {
        placed[i] = placed[i].min(most);
        most = placed[i] - LABEL_STEP;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_order_and_distance() {
        let placed = spread(&[50.0, 48.0, 49.0, 10.0], 0.0, 100.0);
        assert!(placed[3] == 10.0 && placed[1] < placed[2] && placed[2] < placed[0], "{placed:?}");
        assert!(placed[2] - placed[1] >= LABEL_STEP && placed[0] - placed[2] >= LABEL_STEP);
        assert_eq!(spread(&[99.0, 100.0], 0.0, 100.0), [100.0 - LABEL_STEP, 100.0]);
    }

    #[test]
    fn every_policy_has_a_line_and_a_label_in_every_panel() {
        let panel = || Panel { title: "t".into(), cliff: 5.0, rates: vec![vec![10.0, 60.0], vec![20.0, 80.0]] };
        let svg = picture(&["one", "two"], &[5, 50], &[panel(), panel(), panel()]);
        assert_eq!((svg.matches(">one<").count(), svg.matches(">two<").count()), (4, 4));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.matches("<g ").count() == 3);
        // 80% in a panel whose plot is 264 high from 34 on.
        assert!(svg.contains(&format!("{:.1}L", 34.0 + 264.0 * 0.9)) && svg.contains(&format!(" {:.1}\"", 34.0 + 264.0 * 0.2)), "{svg}");
    }
}
