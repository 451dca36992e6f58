//! `strftime_now`: some templates put today's date into the system prompt. Times are UTC.

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/// Formats `seconds` since 1970 by the directives that templates use; others stay as they are.
pub(super) fn utc(seconds: u64, format: &str) -> String {
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let weekday = name(&DAYS, (days + 4) % 7); // 1 January 1970 was a Thursday.
    let month_name = name(&MONTHS, month - 1);
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let text = match rest.next() {
            Some('Y') => format!("{year:04}"),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.into(),
            Some('b' | 'h') => month_name.chars().take(3).collect(),
            Some('A') => weekday.into(),
            Some('a') => weekday.chars().take(3).collect(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{hour12:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('F') => format!("{year:04}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".into(),
            Some('z') => "+0000".into(),
            Some('-') => match rest.next() {
                Some('d') => day.to_string(),
                Some('m') => month.to_string(),
                Some('H') => hour.to_string(),
                Some('I') => hour12.to_string(),
                other => format!("%-{}", other.map(String::from).unwrap_or_default()),
            },
            Some('%') => "%".into(),
            other => format!("%{}", other.map(String::from).unwrap_or_default()),
        };
        out.push_str(&text);
    }
    out
}

fn name(names: &[&'static str], index: u64) -> &'static str {
    usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or("")
}

/// Year, month and day of a day since 1970, in the Gregorian calendar: years are counted from 1 March, so that the leap
/// day is the last of a year, and in eras of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days since 1 March of the year 0
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153; // from March
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_equal_pythons() {
        // datetime.datetime.fromtimestamp(s, datetime.UTC).strftime(...)
        for (seconds, expected) in [
            (0, "Thu 01 Jan 1970 00:00:00"),
            (951_782_400, "Tue 29 Feb 2000 00:00:00"),
            (1_735_689_599, "Tue 31 Dec 2024 23:59:59"),
            (4_107_542_400, "Mon 01 Mar 2100 00:00:00"),
        ] {
            assert_eq!(utc(seconds, "%a %d %b %Y %H:%M:%S"), expected);
        }
        assert_eq!(utc(951_782_400 + 13 * 3600, "%A, %-d %B %y %I %p 100%% %F %q"), "Tuesday, 29 February 00 01 PM 100% 2000-02-29 %q");
    }
}
