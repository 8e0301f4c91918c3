# Reads what the guests printed and says it as a table: case x kernel x lockdown off/on. Called by `run`, with the variables `logs` (folder) and `ci`.
#
# Input: one line per row of kernels.tsv, tabs between name, seconds, what it lacks, kernel package. Fails if a test did.
BEGIN {
    FS = "\t"; shown = 24; wide = 240
    # A kernel gives up at 1,000,000. What it walks through must not grow unseen: it is 25,324 at most (docs/performance.md).
    most = 30000
    # What a test says that is asked with lockdown off alone, where it could not end in another way.
    once = "the same with lockdown off"
}

{
    rows[++row_count] = $1
    about[$1] = $3 == "" ? sprintf("%-56s %5s s", $4, $2) : $3
    if ($3 == "") read($1, logs "/" $1 ".log")
    else if (ci == "true") fail($1, "", "(row)", "may not be skipped in CI: " $3)
    else skip($1, "", "", $3)
}

END {
    # Every test runs on every kernel, twice: one whose result is nowhere was lost.
    for (i = 1; i <= row_count; i++)
        for (j = 1; (rows[i] in ok) && j <= case_count; j++)
            for (off = 0; off <= 1; off++)
                if (cases[j] !~ /^\(/ && cells[rows[i], off, cases[j]] == "") fail(rows[i], off ? "confidentiality" : "none", cases[j], "its result is not in the log")
    for (i = 1; i <= failure_count; i++) printf "%s\n", failures[i]
    for (i = 1; i <= skip_count; i++) print skips[i]
    print "\nkernel tests, lockdown off/on (=: " once ", not asked again), in guests:"
    for (i = 1; i <= row_count; i++) printf "  %s  %-13s %s\n", letter(i), rows[i], about[rows[i]]
    print_table()
    print "\neBPF programs as `oom-watcher check` says it, in guests: what the verifier walked through (from 5.16 on), and the time to load (emulated):"
    for (i = 1; i <= row_count; i++)
        for (off = 1; off >= 0; off--)
            if ((rows[i], off ? "none" : "confidentiality") in programs)
                printf "  %s %-15s %s\n", letter(i), off ? "none" : "confidentiality", programs[rows[i], off ? "none" : "confidentiality"]
    verdict = failed ? "FAILED" : "ok"
    # cargo's test programs count what is skipped as passed.
    printf "test result: %s. %d passed; %d failed; 0 ignored\n", verdict, passed + skip_count, failed
    exit failed > 0
}

# One guest's log.
function read(row, log_file,    line, lockdown, name, part, inside, counted, ended) {
    while ((getline line < log_file) > 0) {
        gsub(/\r|\033\[[0-9;?]*[A-Za-z]/, "", line)
        if (line ~ /guest: lockdown (none|confidentiality)$/) {
            lockdown = line ~ /none$/ ? "none" : "confidentiality"
            counted = 0
        } else if (line ~ /guest: fault: /) {
            fail(row, lockdown, "(guest)", substr(line, index(line, "fault: ") + 7))
        } else if (line ~ /^test .* \.\.\. (ok|FAILED|ignored)/) {
            split(line, part, " ")
            judge(row, lockdown, part[2], line ~ /\.\.\. ok/ ? "ok" : line ~ /\.\.\. FAILED/ ? "FAILED" : "skip")
        } else if (line ~ /skipped: [^ ]+: /) {
            line = substr(line, index(line, "skipped: ") + 9)
            name = substr(line, 1, index(line, ": ") - 1)
            reasons[row, lockdown, name] = substr(line, index(line, ": ") + 2)
        } else if (line ~ /^---- .* stdout ----$/) {
            split(line, part, " ")
            inside = row SUBSEP lockdown SUBSEP part[2]
            lines[inside] = 0
        } else if (line ~ /^failures:$/ || line ~ /^test result: /) {
            inside = ""
            if (line ~ /^test result: /) counted = 1
        } else if (line ~ /guest: status /) {
            if (!counted) fail(row, lockdown, "(program)", "the tests ended without a result, " substr(line, index(line, "guest: ") + 7))
        } else if (line ~ /guest: programs /) {
            programs[row, lockdown] = substr(line, index(line, "programs ") + 9)
            for (; match(line, /[0-9]+ instructions/); line = substr(line, RSTART + RLENGTH))
                if (substr(line, RSTART, RLENGTH) + 0 > most) fail(row, lockdown, "(programs)", substr(line, RSTART, RLENGTH) ", more than " most)
        } else if (line ~ /guest: end/) {
            ended = 1
        } else if (inside != "" && line != "" && ++lines[inside] <= shown) {
            text[inside] = text[inside] "  | " substr(line, 1, wide) "\n"
        }
    }
    close(log_file)
    settle(row)
    if (!ended) fail(row, lockdown, "(guest)", "it did not come to its end, twice: its last lines are in " log_file)
    else if (!(row in ok)) fail(row, "", "(guest)", "no test ran in it")
}

# What a test printed about itself is known only after its line: what it skipped, why it failed.
function judge(row, lockdown, name, verdict) {
    pending[++pending_count] = lockdown SUBSEP name SUBSEP verdict
}

function settle(row,    i, part, key) {
    for (i = 1; i <= pending_count; i++) {
        split(pending[i], part, SUBSEP)
        key = row SUBSEP part[1] SUBSEP part[2]
        if (part[3] == "FAILED") {
            fail(row, part[1], part[2], lines[key] > shown ? lines[key] - shown " lines more are in " logs "/" row ".log" : "", text[key])
        } else if (key in reasons && reasons[key] == once) {
            cell(row, part[1], part[2], "=")
        } else if (part[3] == "skip" || key in reasons) {
            skip(row, part[1], part[2], key in reasons ? reasons[key] : "ignored")
        } else {
            cell(row, part[1], part[2], "ok")
            ok[row] = 1
            passed++
        }
    }
    pending_count = 0
}

function fail(row, lockdown, name, why, log_lines) {
    failed++
    failures[++failure_count] = title(row, lockdown, name) " ... FAILED" (why == "" ? "" : ": " why) (log_lines == "" ? "" : "\n" log_lines)
    cell(row, lockdown, name, "FAILED")
}

function skip(row, lockdown, name, why) {
    skips[++skip_count] = "skipped: " title(row, lockdown, name) ": " why
    if (name != "") cell(row, lockdown, name, "skip")
}

function title(row, lockdown, name) {
    return "guests::" row (name == "" ? "" : "::" name) (lockdown == "confidentiality" ? " (lockdown)" : "")
}

function cell(row, lockdown, name, verdict) {
    if (!(name in known)) { known[name] = 1; cases[++case_count] = name }
    cells[row, lockdown == "confidentiality", name] = verdict
}

function letter(i) { return substr("ABCDEFGHIJKLMNOPQRSTUVWXYZ", i, 1) }

function both(row, name,    off, on) {
    off = cells[row, 0, name]
    on = cells[row, 1, name]
    return (off == "" ? "-" : off) "/" (on == "" ? "-" : on)
}

function print_table(    i, j, name, longest, width, line) {
    for (j = 1; j <= case_count; j++) if (length(cases[j]) > longest) longest = length(cases[j])
    line = sprintf("%-" longest "s", "")
    for (i = 1; i <= row_count; i++) {
        width[i] = 5
        for (j = 1; j <= case_count; j++) if (length(both(rows[i], cases[j])) > width[i]) width[i] = length(both(rows[i], cases[j]))
        line = line sprintf("  %-" width[i] "s", letter(i))
    }
    if (case_count > 0) print line
    for (j = 1; j <= case_count; j++) {
        line = sprintf("%-" longest "s", cases[j])
        for (i = 1; i <= row_count; i++) line = line sprintf("  %-" width[i] "s", both(rows[i], cases[j]))
        print line
    }
}
