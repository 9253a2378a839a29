package main

import (
	"bytes"
	"encoding/json"
	"math/rand"
	"strings"
)

type rule map[string]any

func allCases() []testCase {
	var cases []testCase
	for _, rules := range ruleTable {
		cases = append(cases, newCase(rules, nodeLabels...))
	}
	for _, row := range regexTable {
		cases = append(cases, regexCase(row[0], row[1:]...))
	}
	for _, template := range templates {
		cases = append(cases, newCase([]rule{{"source_labels": []string{"v"}, "regex": `(?P<a>x)(?P<b_1>y)?(?P<1x>z)?.*`,
			"target_label": "out", "replacement": template}}, texts("x", "xy", "xz", "xyz1", "q")...))
	}
	for _, regex := range []string{"(?P<n>a)(?P<n>b)", "(?P<n>a)?(?P<n>b)", "(?P<n>a)|(?P<n>b)"} {
		cases = append(cases, newCase([]rule{{"source_labels": []string{"v"}, "regex": regex,
			"target_label": "out", "replacement": "<$n>"}}, texts("ab", "a", "b")...))
	}
	random := rand.New(rand.NewSource(1))
	for range 250 {
		regex := randomRegex(random, 4)
		cases = append(cases, regexCase(regex, randomTexts(random)...))
	}
	for range 150 {
		cases = append(cases, randomRules(random))
	}
	return cases
}

func newCase(rules []rule, labels ...map[string]string) testCase {
	var text bytes.Buffer
	out := json.NewEncoder(&text)
	out.SetEscapeHTML(false)
	check(out.Encode(rules))
	return testCase{Rules: bytes.TrimSpace(text.Bytes()), Labels: labels}
}

// regexCase shows what a regex matches, and what its groups do.
func regexCase(regex string, values ...string) testCase {
	return newCase([]rule{{"source_labels": []string{"v"}, "regex": regex, "target_label": "out",
		"replacement": "<$0|$1|$2|$3>"}}, texts(values...)...)
}

func texts(values ...string) []map[string]string {
	var sets []map[string]string
	for _, value := range values {
		sets = append(sets, map[string]string{"v": value})
	}
	return sets
}

var nodeLabels = []map[string]string{
	{"__name__": "node_cpu_seconds_total", "job": "node", "instance": "db1.example.net:9100", "cpu": "0", "mode": "Idle"},
	{"__address__": "10.0.0.1:80", "__meta_kubernetes_pod_label_app": "Web", "__meta_kubernetes_pod_label_tier": "front",
		"__meta_kubernetes_namespace": "default", "job": "pods", "app": "", "same": "Web"},
	{"a": "1", "b": "2", "c": "3", "xa": "4", "xb": "5", "Straße": "ÄÖÜßİı"},
	{},
}

var atoms = []string{"a", "b", "ab", "0", "-", ".", `\.`, `\d`, `\w`, `\s`, `\b`, `\B`, "^", "$", "[ab]", "[^a]", "[a-c0]", `[\d-]`, "é",
	"[[:alpha:]]", `\pL`, `(?i)`, "(?i:a)", "(?-s:.)", "(?U)", "(?m)", "", "\u212a", "ſ"}

func randomRegex(random *rand.Rand, depth int) string {
	if depth == 0 {
		return atoms[random.Intn(len(atoms))]
	}
	inner := func() string { return randomRegex(random, depth-1) }
	switch random.Intn(9) {
	case 0:
		return "(" + inner() + ")"
	case 1:
		return "(?:" + inner() + ")"
	case 2:
		return inner() + "|" + inner()
	case 3:
		repeats := []string{"*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{1,}", "{,2}", "{2}?", "**"}
		return inner() + repeats[random.Intn(len(repeats))]
	case 4:
		return "(" + inner() + "|" + inner() + ")" + []string{"", "*", "+", "?", "*?"}[random.Intn(5)]
	default:
		return inner() + inner()
	}
}

func randomTexts(random *rand.Rand) []string {
	letters := []string{"a", "a", "b", "b", "c", "A", "0", "1", "-", ".", "\n", "é", " ", "{,2}", "\u212a", "k", "ſ", "S"}
	values := []string{""}
	for length := 1; length < 7; length++ {
		var text strings.Builder
		for range length {
			text.WriteString(letters[random.Intn(len(letters))])
		}
		values = append(values, text.String())
	}
	return values
}

// randomRules are a few rules one after the other, so that each meets what the ones before did.
func randomRules(random *rand.Rand) testCase {
	pick := func(choices ...string) string { return choices[random.Intn(len(choices))] }
	name := func() string { return pick("a", "b", "c", "xa", "xb", "é b", "A") }
	var rules []rule
	for range 1 + random.Intn(4) {
		r := rule{"action": pick("replace", "replace", "replace", "labelmap", "labelmap", "labeldrop", "labelkeep", "hashmod",
			"lowercase", "uppercase", "keep", "drop", "keepequal", "dropequal")}
		switch r["action"] {
		case "labelmap":
			r["regex"], r["replacement"] = pick("(.).*", "x(.+)", "(a|b)", "(.*)", "a)|(b", "[ab]"), pick("$1", "x$1", "$1$1", "z", "$2")
		case "labeldrop":
			r["regex"] = pick("a", "x.*", ".", "[^a]", "(?i)a")
		case "labelkeep":
			r["regex"] = pick("a|b|c", ".*[ab]", "(?i:a|b).*", ".+")
		default:
			r["source_labels"] = []string{name(), name()}[:random.Intn(3)]
			r["target_label"] = name()
			if random.Intn(3) == 0 && r["action"] != "keepequal" && r["action"] != "dropequal" {
				r["separator"] = pick("", "-", "; ")
			}
			switch r["action"] {
			case "hashmod":
				r["modulus"] = 1 + random.Intn(1000)
			case "replace":
				r["regex"] = pick("(.*)", "(.*);(.*)", "(.+)", "1?", "([^;]*).*", "[13].*(.)?")
				r["replacement"] = pick("$1", "$2$1", "", "new", "$0")
				r["target_label"] = pick(name(), "$1", "t_${1}", "x$0", "$2")
			case "keep":
				r["regex"] = pick(".*", "[^2].*", "1.*|3.*|.*5|x.*")
			case "drop":
				r["regex"] = pick("2", "1;.*", "[4-5].*", "x|y|z")
			}
		}
		rules = append(rules, r)
	}
	return newCase(rules, nodeLabels[2], map[string]string{"a": "x", "xa": "Y", "é b": "z"})
}
