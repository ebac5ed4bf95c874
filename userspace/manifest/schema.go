// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"embed"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/spliceway/spliceway/userspace/config"
)

// schemaFiles have the schemas by kind, or by KIND/VERSION where a version's is another.
// gateway.yaml is taken from the Gateway API's resource definitions by a test.
//
//go:embed schemas
var schemaFiles embed.FS

// schema is what an object's spec may be, where the Go type does not say it
// (OpenAPI v3, as far as resource definitions have it here).
type schema struct {
	Type                 string             `yaml:"type,omitempty"`
	Required             []string           `yaml:"required,omitempty"`
	Properties           map[string]*schema `yaml:"properties,omitempty"`
	AdditionalProperties *schema            `yaml:"additionalProperties,omitempty"`
	Items                *schema            `yaml:"items,omitempty"`
	Enum                 []string           `yaml:"enum,omitempty"`
	Pattern              string             `yaml:"pattern,omitempty"`
	Minimum              *int64             `yaml:"minimum,omitempty"`
	Maximum              *int64             `yaml:"maximum,omitempty"`
	MinLength            int                `yaml:"minLength,omitempty"`
	MaxLength            *int               `yaml:"maxLength,omitempty"`
	MinItems             int                `yaml:"minItems,omitempty"`
	MaxItems             *int               `yaml:"maxItems,omitempty"`
	MaxProperties        *int               `yaml:"maxProperties,omitempty"`

	pattern *regexp.Regexp
}

type schemaSet map[string]*schema

var schemas = sync.OnceValue(func() schemaSet {
	all := make(schemaSet)
	for _, file := range []string{"schemas/gateway.yaml", "schemas/ngrok.yaml"} {
		data, err := schemaFiles.ReadFile(file)
		if err == nil {
			err = yaml.Unmarshal(data, &all)
		}
		if err != nil {
			panic(fmt.Sprintf("manifest: %s: %v", file, err)) // part of the program
		}
	}
	for _, s := range all {
		s.compile()
	}
	return all
})

func (s *schema) compile() {
	if s == nil {
		return
	}
	if s.Pattern != "" {
		s.pattern = regexp.MustCompile(s.Pattern)
	}
	for _, p := range s.Properties {
		p.compile()
	}
	s.AdditionalProperties.compile()
	s.Items.compile()
}

// of is the schema of a kind's spec; nil: there is none.
func (all schemaSet) of(kind, version string) *schema {
	if s := all[kind+"/"+version]; s != nil {
		return s
	}
	return all[kind]
}

// schema checks an object's spec.
func (v *validation) schema(object map[string]any, s *schema) {
	if s == nil {
		return
	}
	spec, ok := object["spec"]
	switch {
	case ok:
		v.fits(spec, s, []any{"spec"})
	case len(s.Required) > 0:
		v.wrong(v.at("spec"), []any{"spec"}, "a value is needed")
	}
}

// fits checks a value.
func (v *validation) fits(value any, s *schema, path []any) {
	switch value := value.(type) {
	case map[string]any:
		v.fitsMapping(value, s, path)
		return
	case []any:
		if s.Type == "array" {
			v.count(len(value), s.MinItems, limit(s.MaxItems), path...)
			for i, e := range value {
				if s.Items != nil {
					v.fits(e, s.Items, with(path, i))
				}
			}
			return
		}
	case string:
		if s.Type == "string" {
			v.fitsText(value, s, path)
			return
		}
	case int64:
		low, high := int64(math.MinInt64), int64(math.MaxInt64)
		if s.Minimum != nil {
			low = *s.Minimum
		}
		if s.Maximum != nil {
			high = *s.Maximum
		}
		if value < low || value > high {
			v.wrong(v.at(path...), path, "expected a number from %d to %d, found %d", low, high, value)
		}
		return
	}
	if s.Type == "object" {
		v.expected(resolve(v.at(path...)), path, "a mapping")
	}
}

func limit(n *int) int {
	if n == nil {
		return math.MaxInt
	}
	return *n
}

func (v *validation) fitsMapping(m map[string]any, s *schema, path []any) {
	for _, key := range s.Required {
		if _, ok := m[key]; !ok {
			v.wrong(v.at(with(path, key)...), with(path, key), "a value is needed")
		}
	}
	if len(m) > limit(s.MaxProperties) {
		v.wrong(v.at(path...), path, "expected at most %d entries, found %d", *s.MaxProperties, len(m))
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		of := s.Properties[key]
		if of == nil {
			of = s.AdditionalProperties
		}
		if of != nil {
			v.fits(m[key], of, with(path, key))
		}
	}
}

func (v *validation) fitsText(text string, s *schema, path []any) {
	switch length := utf8.RuneCountInString(text); {
	case text == "" && s.MinLength > 0:
		v.wrong(v.at(path...), path, "a value is needed")
	case length < s.MinLength:
		v.wrong(v.at(path...), path, "expected at least %d characters, found %s", s.MinLength, config.Quote(text))
	case length > limit(s.MaxLength):
		v.wrong(v.at(path...), path, "expected at most %d characters, found %d", *s.MaxLength, length)
	case len(s.Enum) > 0 && !slices.Contains(s.Enum, text):
		v.wrong(v.at(path...), path, "expected one of %s, found %s", strings.Join(s.Enum, ", "), config.Quote(text))
	case s.pattern != nil && !s.pattern.MatchString(text):
		v.wrong(v.at(path...), path, "%s", mismatch(text, s.Pattern))
	}
}

// dnsName is the form of most names.
const dnsName = `[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`

// mismatch says what is wrong with a text that is not of a form.
func mismatch(text, pattern string) string {
	switch pattern {
	case `^` + dnsName:
		return config.Quote(text) + ` is no name: expected lower-case letters, digits, "-" and ".", with a letter or digit at both ends of each part`
	case `^(\*\.)?` + dnsName:
		return config.Quote(text) + ` is no hostname: expected a DNS name in lower case, or "*." and one`
	}
	return fmt.Sprintf("%s is not of the form %s", config.Quote(text), pattern)
}
