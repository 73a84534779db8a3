//! Tables and numbers as README writes them.

/// A table; nothing if it has no rows.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = line(&head) + &line(&["---"; N]).replace(' ', "");
    text.extend(rows.iter().map(line_of));
    text
}

fn line_of<const N: usize>(row: &[String; N]) -> String {
    line(&row.each_ref().map(String::as_str))
}

fn line(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// A whole number, its thousands apart: `39,322`.
pub(super) fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_their_thousands_apart() {
        let cases = [
            (0.0, "0"),
            (999.4, "999"),
            (999.5, "1,000"),
            (12_000.0, "12,000"),
            (1_234_567.0, "1,234,567"),
        ];
        for (number, text) in cases {
            assert_eq!(whole(number), text);
        }
    }

    #[test]
    fn tables_have_a_head_and_a_line_a_row() {
        let row = ["1".to_owned(), "2".to_owned()];
        assert_eq!(
            table(["a", "b"], &[row]),
            "| a | b |\n|---|---|\n| 1 | 2 |\n"
        );
        assert_eq!(table(["a", "b"], &[]), "");
    }
}
