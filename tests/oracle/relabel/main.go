// What Prometheus itself makes of relabelling rules. Reads cases as JSON lines, prints each with its verdict:
//
//	go run . -cases | go run . > ../../../plugins/src/exposition/relabel/verdicts.jsonl
//
// A case is {"rules": [...], "labels": [{...}, ...]}: rules as in relabel_configs, and label sets to apply
// them to. The verdict is either "error", for rules that Prometheus refuses, or "out": what became of each
// label set, null where it was dropped.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"log"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v2"
)

type testCase struct {
	Rules  json.RawMessage     `json:"rules"`
	Labels []map[string]string `json:"labels"`
	Error  string              `json:"error,omitempty"`
	Out    []map[string]string `json:"out,omitempty"`
}

func main() {
	printCases := flag.Bool("cases", false, "print cases without verdicts")
	flag.Parse()
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	if *printCases {
		for _, c := range allCases() {
			check(out.Encode(c))
		}
		return
	}
	check(out.Encode(map[string]string{"made": "in tests/oracle/relabel: go run . -cases | go run . > ../../../plugins/src/exposition/relabel/verdicts.jsonl"}))
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c testCase
		check(json.Unmarshal(lines.Bytes(), &c))
		judge(&c)
		check(out.Encode(c))
	}
	check(lines.Err())
}

func judge(c *testCase) {
	var rules []*relabel.Config
	// JSON is YAML, and the configuration of Prometheus is YAML.
	if err := yaml.UnmarshalStrict(c.Rules, &rules); err != nil {
		c.Error = err.Error()
		return
	}
	for _, rule := range rules {
		if err := rule.Validate(model.UTF8Validation); err != nil {
			c.Error = err.Error()
			return
		}
	}
	for _, set := range c.Labels {
		builder := labels.NewBuilder(labels.FromMap(set))
		if relabel.ProcessBuilder(builder, rules...) {
			c.Out = append(c.Out, builder.Labels().Map())
		} else {
			c.Out = append(c.Out, nil)
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
