// Prometheus 3.x as the judge of exposition bodies: reads the tables of verdicts, parses each body with
// the parser of Prometheus and the checks of its scrape loop, prints what it finds as JSON lines, and
// exits with 1 where a `compat` column says otherwise. To verify the tables:
//
//	cd tests/oracle/textparse && go run . ../../../plugins/src/exposition/verdicts/*.txt >/dev/null
//
// With `-` instead of files it reads bodies from standard input, one a line: the format (`text` or
// `openmetrics`), a blank, and the body in base64. No test runs this; the column is checked in.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// Verdict is what Prometheus makes of one body.
type Verdict struct {
	Title    string            `json:"title,omitempty"`
	OK       bool              `json:"ok"`
	Error    string            `json:"error,omitempty"`
	Series   []Series          `json:"series,omitempty"`
	Metadata []json.RawMessage `json:"metadata,omitempty"`
}

// Series is one sample as a scrape would store it, before target labels. Values are the text of the number,
// since JSON has no NaN.
type Series struct {
	Labels    map[string]string `json:"labels"`
	Value     string            `json:"value"`
	Timestamp *int64            `json:"timestamp,omitempty"`
	Exemplar  *Exemplar         `json:"exemplar,omitempty"`
}

// Exemplar is the exemplar of a sample.
type Exemplar struct {
	Labels    map[string]string `json:"labels"`
	Value     string            `json:"value"`
	Timestamp *int64            `json:"timestamp,omitempty"`
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	disagreements := 0
	for _, name := range os.Args[1:] {
		if name == "-" {
			judgeLines(os.Stdin, out)
			continue
		}
		disagreements += judgeTable(name, out)
	}
	out.Flush()
	if disagreements > 0 {
		fmt.Fprintf(os.Stderr, "%d disagreements\n", disagreements)
		os.Exit(1)
	}
}

func judgeLines(in io.Reader, out io.Writer) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		format, encoded, _ := strings.Cut(lines.Text(), " ")
		body, err := base64.StdEncoding.DecodeString(encoded)
		exitIf(err)
		print(out, judge(format, body))
	}
	exitIf(lines.Err())
}

func judgeTable(name string, out io.Writer) (disagreements int) {
	text, err := os.ReadFile(name)
	exitIf(err)
	format := "text"
	if strings.Contains(name, "openmetrics") {
		format = "openmetrics"
	}
	for _, block := range strings.Split(string(text), "\n== ")[1:] {
		lines := strings.Split(block, "\n")
		verdict := judge(format, body(lines[2:]))
		verdict.Title = lines[0]
		expected, found := expectation(lines[1]), "no"
		if verdict.OK {
			found = strconv.Itoa(len(verdict.Series))
		}
		if expected != found {
			disagreements++
			fmt.Fprintf(os.Stderr, "%s: %s: the table says %s, Prometheus %s %s\n", name, lines[0], expected, found, verdict.Error)
		}
		print(out, verdict)
	}
	return disagreements
}

// expectation is the verdict of Prometheus 3.x by the columns of a case: that of `compat`, unless there is
// one of its own.
func expectation(columns string) (expected string) {
	for _, column := range strings.Split(columns, ", ") {
		fields := strings.Fields(column)
		if fields[0] == "compat" || fields[0] == "3.x" {
			expected = fields[1]
		}
	}
	return expected
}

// body reads the lines that start with `| `; bytes that cannot be read stand in guillemets.
func body(lines []string) []byte {
	var body []byte
	for _, line := range lines {
		line, found := strings.CutPrefix(line, "|")
		if !found {
			continue
		}
		line = strings.TrimPrefix(line, " ") + "\n"
		for {
			before, rest, found := strings.Cut(line, "«")
			body = append(body, before...)
			if !found {
				break
			}
			hex, after, _ := strings.Cut(rest, "»")
			for _, digits := range strings.Fields(hex) {
				if digits == "end" {
					return body
				}
				b, err := strconv.ParseUint(digits, 16, 8)
				exitIf(err)
				body = append(body, byte(b))
			}
			line = after
		}
	}
	return body
}

func judge(format string, body []byte) Verdict {
	contentType := "text/plain"
	if format == "openmetrics" {
		contentType = "application/openmetrics-text; version=1.0.0"
	}
	parser, err := textparse.New(bytes.Clone(body), contentType, nil, textparse.ParserOptions{})
	exitIf(err)
	verdict := Verdict{}
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			verdict.OK = true
			return verdict
		}
		if err == nil {
			err = verdict.take(parser, entry)
		}
		if err != nil {
			return Verdict{Error: err.Error()}
		}
	}
}

func (v *Verdict) take(parser textparse.Parser, entry textparse.Entry) error {
	switch entry {
	case textparse.EntryHelp:
		name, text := parser.Help()
		v.metadata("help", string(name), string(text))
	case textparse.EntryType:
		name, kind := parser.Type()
		v.metadata("type", string(name), string(kind))
	case textparse.EntryUnit:
		name, unit := parser.Unit()
		v.metadata("unit", string(name), string(unit))
	case textparse.EntrySeries:
		series, err := read(parser)
		if err != nil {
			return err
		}
		v.Series = append(v.Series, series)
	}
	return nil
}

func (v *Verdict) metadata(fields ...string) {
	line, err := json.Marshal(fields)
	exitIf(err)
	v.Metadata = append(v.Metadata, line)
}

// read takes a sample through the checks of the scrape loop and of the storage.
func read(parser textparse.Parser) (Series, error) {
	_, timestamp, value := parser.Series()
	var set labels.Labels
	parser.Labels(&set)
	set = labels.NewBuilder(set).Set("instance", "judge").Del("instance").Labels()
	if !set.Has(model.MetricNameLabel) {
		return Series{}, errors.New("missing metric name")
	}
	if !set.IsValid(model.UTF8Validation) {
		return Series{}, fmt.Errorf("invalid metric name or label names: %s", set)
	}
	if name, dup := set.HasDuplicateLabelNames(); dup {
		return Series{}, fmt.Errorf("label name %q is not unique", name)
	}
	series := Series{Labels: set.Map(), Value: text(value)}
	if timestamp != nil {
		copied := *timestamp
		series.Timestamp = &copied
	}
	var found exemplar.Exemplar
	if parser.Exemplar(&found) {
		series.Exemplar = &Exemplar{Labels: found.Labels.Map(), Value: text(found.Value)}
		if found.HasTs {
			series.Exemplar.Timestamp = &found.Ts
		}
	}
	return series, nil
}

func text(value float64) string {
	return strconv.FormatFloat(value, 'g', -1, 64)
}

func print(out io.Writer, verdict Verdict) {
	line, err := json.Marshal(verdict)
	exitIf(err)
	_, err = out.Write(append(line, '\n'))
	exitIf(err)
}

func exitIf(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "textparse:", err)
		os.Exit(2)
	}
}
