// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// maxValue is how large a value within an expression may be, in bytes. A short expression
// can ask for gigabytes: ['x'].map(a, a + a).map(b, b + b) and so on.
const maxValue = maxWritten

var errTooLarge = fmt.Errorf("a value of more than %d KiB", maxValue>>10)

// large tells whether v is larger than what is left of maxValue, and takes it from there.
func large(v ref.Val, left *int, depth int) bool {
	if *left -= valueSize; *left < 0 || depth > 2*maxDepth {
		return true
	}
	switch v := v.(type) {
	case types.String:
		*left -= len(v)
	case types.Bytes:
		*left -= len(v)
	case traits.Mapper:
		for it := v.Iterator(); it.HasNext() == types.True; {
			key := it.Next()
			if large(key, left, depth+1) || large(v.Get(key), left, depth+1) {
				return true
			}
		}
	case traits.Lister:
		for it := v.Iterator(); it.HasNext() == types.True; {
			if large(it.Next(), left, depth+1) {
				return true
			}
		}
	}
	return *left < 0
}

// bounded is a part of an expression whose value must not be large.
type bounded struct{ interpreter.InterpretableV2 }

func (b bounded) Exec(f *interpreter.ExecutionFrame) ref.Val { return bound(b.InterpretableV2.Exec(f)) }

func (b bounded) Eval(a interpreter.Activation) ref.Val { return bound(b.InterpretableV2.Eval(a)) }

func bound(v ref.Val) ref.Val {
	switch v.(type) {
	case traits.MutableLister, traits.MutableMapper:
		return v // a loop's, whose time is bounded; what comes of it is looked at
	}
	left := maxValue + valueSize
	if large(v, &left, 0) {
		return types.WrapErr(errTooLarge)
	}
	return v
}

// bounds makes bounded what may be large of an expression's program: not numbers and the
// like, and not what is known at load.
func bounds(env *cel.Env, checked *ast.AST) interpreter.InterpretableDecoratorV2 {
	return func(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
		switch i := i.(type) {
		case interpreter.InterpretableConst, interpreter.InterpretableAttribute:
			return i, nil
		case interpreter.InterpretableConstructor:
			constant := true
			for _, v := range i.InitVals() {
				_, ok := v.(interpreter.InterpretableConst)
				constant = constant && ok
			}
			if constant {
				return i, nil
			}
		}
		switch checked.GetType(i.ID()).Kind() {
		case types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.TimestampKind, types.DurationKind, types.NullTypeKind, types.TypeKind:
			return i, nil
		}
		if call, ok := i.(interpreter.InterpretableCall); ok && growth[call.Function()] != nil {
			if impl := implementation(env, call); impl != nil {
				i = interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), impl)
			}
		}
		return bounded{i}, nil
	}
}

// growth is how long the strings are that functions make of operands that are not large.
var growth = map[string]func(args []ref.Val) int{
	"replace": func(args []ref.Val) int {
		if len(args) < 3 {
			return 0
		}
		s, _ := args[0].(types.String)
		before, _ := args[1].(types.String)
		after, _ := args[2].(types.String)
		return len(s) + strings.Count(string(s), string(before))*len(after)
	},
	"join": func(args []ref.Val) int {
		list, ok := args[0].(traits.Lister)
		if !ok || len(args) < 2 {
			return 0
		}
		between, _ := args[1].(types.String)
		n, _ := list.Size().(types.Int)
		return int(n) * len(between)
	},
}

// implementation is call's own, for operands from which it does not grow too much; nil if
// it has none.
func implementation(env *cel.Env, call interpreter.InterpretableCall) functions.FunctionOp {
	declared := env.Functions()[call.Function()]
	if declared == nil {
		return nil
	}
	overloads, err := declared.Bindings()
	if err != nil {
		return nil
	}
	for _, o := range overloads {
		if o.Operator != call.OverloadID() && (call.OverloadID() != "" || o.Operator != call.Function()) {
			continue
		}
		return func(args ...ref.Val) ref.Val {
			switch {
			case growth[call.Function()](args) > maxValue:
				return types.WrapErr(errTooLarge)
			case len(args) == 1 && o.Unary != nil:
				return o.Unary(args[0])
			case len(args) == 2 && o.Binary != nil:
				return o.Binary(args[0], args[1])
			case o.Function != nil:
				return o.Function(args...)
			}
			return types.NewErr("no such overload: %s", call.Function())
		}
	}
	return nil
}

// slow are functions that take long for large operands.
var slow = map[string]bool{
	"matches": true, "distinct": true, "sort": true, "flatten": true, "hasAny": true, "hasAll": true, "hasOnly": true, "hasExactly": true,
	"sets.contains": true, "sets.intersects": true, "sets.equivalent": true, "inCidrRanges": true, "json.encode": true, "json.decode": true,
}
