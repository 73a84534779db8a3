//! Line plots of what was measured over time, as SVG.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use plotters::{
    chart::ChartBuilder,
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
    },
    drawing::{DrawingArea, IntoDrawingArea},
    element::{PathElement, Text},
    prelude::{IntoLogRange, SVGBackend},
    series::LineSeries,
    style::{Color, RGBColor, WHITE},
};
use serde::{Deserialize, Serialize};

/// A moment of a ramp.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Point {
    /// From the start of the ramp, in seconds.
    pub(crate) at_seconds: f64,
    pub(crate) users: f64,
    /// Users that failed so far.
    pub(crate) failed: f64,
    /// From a send to its delivery, in milliseconds.
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU time a second, in cores.
    pub(crate) gateway_cpu_cores: f64,
    pub(crate) backend_cpu_cores: f64,
    pub(crate) redis_cpu_cores: f64,
    pub(crate) client_cpu_cores: f64,
    pub(crate) gateway_mib: f64,
    pub(crate) backend_mib: f64,
}

/// One line.
struct Line {
    name: &'static str,
    color: RGBColor,
    value: fn(&Point) -> f64,
}

/// Width and height of a plot, in pixels.
const SIZE: (u32, u32) = (940, 840);

/// The part of the width that the lines' names take.
const LEGEND_WIDTH: u32 = 160;

/// Any without serifs, by its size.
const FONT: (&str, u32) = ("sans-serif", 13);

/// Lower edges of the panels but the last, which also has the labels of the common x axis.
const PANEL_EDGES: [i32; 3] = [200, 400, 600];

/// Latency below this is not told apart, in milliseconds.
const LATENCY_MS_MIN: f64 = 1.0;

// Colours that colour-blind readers can tell apart (Okabe and Ito).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PURPLE: RGBColor = RGBColor(204, 121, 167);

const USERS: &[Line] = &[
    line("users", BLUE, |point| point.users),
    line("failed", VERMILION, |point| point.failed),
];

const LATENCY: &[Line] = &[
    line("p99", VERMILION, |point| point.p99_ms),
    line("p95", PURPLE, |point| point.p95_ms),
    line("p50", BLUE, |point| point.p50_ms),
];

const CPU: &[Line] = &[
    line("gateways", BLUE, |point| point.gateway_cpu_cores),
    line("backends", GREEN, |point| point.backend_cpu_cores),
    line("Redis", VERMILION, |point| point.redis_cpu_cores),
    line("clients", PURPLE, |point| point.client_cpu_cores),
];

const MEMORY: &[Line] = &[
    line("gateways", BLUE, |point| point.gateway_mib),
    line("backends", GREEN, |point| point.backend_mib),
];

const fn line(name: &'static str, color: RGBColor, value: fn(&Point) -> f64) -> Line {
    Line { name, color, value }
}

/// A ramp's users, latency, CPU time and memory, one above another over the same minutes.
pub(crate) fn ramp(points: &[Point]) -> Result<String> {
    let (first, last) = points.first().zip(points.last()).context("no points")?;
    let minutes = first.at_seconds / 60.0..last.at_seconds / 60.0;
    ensure!(minutes.start < minutes.end, "the points span no time");
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        canvas.fill(&WHITE)?;
        let areas = canvas.split_by_breakpoints([0; 0], PANEL_EDGES);
        let [users, latency, cpu, memory] = areas.as_slice() else {
            bail!("three edges make four areas");
        };
        let panel = |area, title, lines, has_minutes| Panel {
            area,
            title,
            lines,
            points,
            minutes: minutes.clone(),
            has_minutes,
        };
        let users = panel(users, "users", USERS, false);
        let latency = panel(latency, "delivery, ms", LATENCY, false);
        let cpu = panel(cpu, "CPU, cores", CPU, false);
        let memory = panel(memory, "memory, MiB", MEMORY, true);
        latency.draw((LATENCY_MS_MIN..latency.top(LATENCY_MS_MIN)).log_scale())?;
        for panel in [users, cpu, memory] {
            panel.draw(0.0..panel.top(0.0))?;
        }
        canvas.present()?;
    }
    Ok(svg)
}

/// Lines over one y axis.
struct Panel<'a, 'svg> {
    area: &'a DrawingArea<SVGBackend<'svg>, Shift>,
    title: &'static str,
    lines: &'static [Line],
    points: &'a [Point],
    minutes: Range<f64>,
    /// Whether the x axis is labelled here.
    has_minutes: bool,
}

impl Panel<'_, '_> {
    fn draw<Y>(&self, y: Y) -> Result<()>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    {
        let mut chart = ChartBuilder::on(self.area)
            .margin(8)
            .margin_right(LEGEND_WIDTH + 12)
            .x_label_area_size(if self.has_minutes { 40 } else { 0 })
            .y_label_area_size(72)
            .build_cartesian_2d(self.minutes.clone(), y)?;
        let mut mesh = chart.configure_mesh();
        mesh.y_desc(self.title)
            .y_labels(5)
            .label_style(FONT)
            .x_label_formatter(&tick)
            .y_label_formatter(&tick)
            .light_line_style(WHITE);
        if self.has_minutes {
            mesh.x_desc("minutes");
        }
        mesh.draw()?;
        for line in self.lines {
            let values = line.values(self.points);
            chart.draw_series(LineSeries::new(values, line.color.stroke_width(2)))?;
        }
        self.draw_legend()
    }

    /// On the right of the lines, so that it covers none.
    fn draw_legend(&self) -> Result<()> {
        let (width, _) = self.area.dim_in_pixel();
        let left = i32::try_from(width - LEGEND_WIDTH)?;
        for (line, y) in self.lines.iter().zip((16..).step_by(20)) {
            let stroke = line.color.stroke_width(2);
            self.area
                .draw(&PathElement::new([(left, y), (left + 16, y)], stroke))?;
            let label = line.label(self.points);
            self.area
                .draw(&Text::new(label, (left + 22, y - 6), FONT))?;
        }
        Ok(())
    }

    /// The upper end of the y axis: a little above all lines, and above `floor`.
    fn top(&self, floor: f64) -> f64 {
        let highest = self.lines.iter().map(|line| line.highest(self.points));
        let highest = highest.fold(floor, f64::max);
        if highest > floor {
            highest * 1.1
        } else {
            floor + 1.0
        }
    }
}

impl Line {
    fn values(&self, points: &[Point]) -> impl Iterator<Item = (f64, f64)> {
        points
            .iter()
            .map(|point| (point.at_seconds / 60.0, (self.value)(point)))
    }

    fn highest(&self, points: &[Point]) -> f64 {
        points.iter().map(self.value).fold(0.0, f64::max)
    }

    /// The name and the largest value: small ones lie on the axis.
    fn label(&self, points: &[Point]) -> String {
        let highest = self.highest(points);
        let digits = usize::from(highest < 10.0 && highest.fract() != 0.0);
        format!("{}, at most {highest:.digits$}", self.name)
    }
}

/// A value on an axis, without needless digits.
fn tick(value: &f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(minute: f64) -> Point {
        Point {
            at_seconds: minute * 60.0,
            users: minute * 200.0,
            failed: if minute > 9.0 { 17.0 } else { 0.0 },
            p50_ms: 2.0 + minute,
            p95_ms: 10.0 * (minute + 1.0),
            p99_ms: 3.0f64.powf(minute),
            gateway_cpu_cores: 0.05 * minute,
            backend_cpu_cores: 0.25,
            redis_cpu_cores: 0.03 * minute,
            client_cpu_cores: 0.08 * minute,
            gateway_mib: 5.0 + minute,
            backend_mib: 30.0,
        }
    }

    fn points() -> Vec<Point> {
        (0..=20).map(|half| point(f64::from(half) / 2.0)).collect()
    }

    #[test]
    fn a_ramp_has_four_panels_with_a_line_for_each_figure() {
        let svg = ramp(&points()).unwrap();
        for text in [
            "minutes",
            "delivery, ms",
            "CPU, cores",
            "memory, MiB",
            "users, at most 2000",
            "failed, at most 17",
            "p99, at most 59049",
            "Redis, at most 0.3",
            "backends, at most 30",
        ] {
            assert!(svg.contains(text), "no {text}");
        }
        let lines = USERS.len() + LATENCY.len() + CPU.len() + MEMORY.len();
        let drawn = svg.matches("<polyline").count();
        assert!(drawn >= 2 * lines, "{drawn} lines with their legends");
    }

    #[test]
    fn ticks_have_no_needless_digits() {
        let ticks = [0.0, 0.25, 0.6000000000000001, 100.0].map(|value| tick(&value));
        assert_eq!(ticks, ["0", "0.25", "0.6", "100"]);
    }

    #[test]
    fn the_same_points_make_the_same_plot() {
        assert_eq!(ramp(&points()).unwrap(), ramp(&points()).unwrap());
    }

    #[test]
    fn nothing_measured_still_makes_axes() {
        let idle = |at_seconds| Point {
            at_seconds,
            users: 0.0,
            failed: 0.0,
            p50_ms: 0.0,
            p95_ms: 0.0,
            p99_ms: 0.0,
            gateway_cpu_cores: 0.0,
            backend_cpu_cores: 0.0,
            redis_cpu_cores: 0.0,
            client_cpu_cores: 0.0,
            gateway_mib: 0.0,
            backend_mib: 0.0,
        };
        let svg = ramp(&[idle(0.0), idle(60.0)]).unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn fewer_than_two_moments_make_no_plot() {
        assert!(ramp(&[]).is_err());
        assert!(ramp(&[point(1.0), point(1.0)]).is_err());
    }
}
