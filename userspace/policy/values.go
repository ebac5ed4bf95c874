// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// maxWritten is how much a run may write, in bytes: URLs, networks, what it logs, its
// variables. Variables of variables double with every action.
const maxWritten = 64 << 10

// valueSize is what a value takes apart from its text, roughly.
const valueSize = 64

var (
	errTooMuch = fmt.Errorf("the policy writes more than %d KiB for one connection", maxWritten>>10)
	errTooDeep = fmt.Errorf("a value that nests more than %d levels deep", 2*maxDepth)
)

// write takes n bytes from what a run may write.
func (r *Run) write(n int) error {
	if r.left -= n; r.left < 0 {
		return errTooMuch
	}
	return nil
}

// text is a value within a string.
func (r *Run) text(v ref.Val) (string, error) {
	if s, ok := v.ConvertToType(types.StringType).(types.String); ok {
		return string(s), nil
	}
	n, err := r.native(v, 0)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(n)
	return string(b), err
}

// native is a value in Go's own types, as far as JSON has them: a copy that nobody else
// changes.
func (r *Run) native(v ref.Val, depth int) (any, error) {
	if depth > 2*maxDepth {
		return nil, errTooDeep
	}
	if err := r.write(valueSize); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case types.String:
		return string(v), r.write(len(v))
	case types.Bytes:
		return []byte(v), r.write(len(v))
	case types.Double:
		return finite(float64(v)), nil
	case types.Int, types.Uint, types.Bool:
		return v.Value(), nil
	case types.Timestamp:
		return v.Time.UTC().Format(time.RFC3339Nano), nil
	case types.Duration:
		return v.Duration.String(), nil
	case types.Null:
		return nil, nil
	case traits.Mapper:
		m := make(map[string]any)
		for it := v.Iterator(); it.HasNext() == types.True; {
			key := it.Next()
			name, ok := key.ConvertToType(types.StringType).(types.String)
			if !ok {
				return nil, errors.New("a key of type " + key.Type().TypeName() + " cannot be written down")
			}
			if err := r.write(len(name)); err != nil {
				return nil, err
			}
			n, err := r.native(v.Get(key), depth+1)
			if err != nil {
				return nil, err
			}
			m[string(name)] = n
		}
		return m, nil
	case traits.Lister:
		list := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			n, err := r.native(it.Next(), depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, n)
		}
		return list, nil
	}
	return nil, errors.New("a value of type " + v.Type().TypeName() + " cannot be written down")
}

// finite is f, or its name if JSON has no number for it.
func finite(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Sprint(f)
	}
	return f
}

// evalTree is a tree for a run's connection: with CEL's own values if typed, so that
// expressions find what was put there, and with Go's otherwise.
func evalTree(v any, r *Run, typed bool) (any, error) {
	if err := r.write(valueSize); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case *template:
		return v.value(r, typed)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			e, err := evalTree(v[i], r, typed)
			if err != nil {
				return nil, err
			}
			out[i] = e
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			e, err := evalTree(v[k], r, typed)
			if err != nil {
				return nil, err
			}
			out[k] = e
		}
		return out, nil
	case float64:
		if !typed {
			return finite(v), nil
		}
	}
	return v, nil
}
