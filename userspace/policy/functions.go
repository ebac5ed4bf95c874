// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/md5"  // #nosec: a function of the language
	"crypto/sha1" // #nosec: likewise
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"
)

// maxRange is how long a list lists.range makes.
const maxRange = 1000

// environment is what expressions are compiled in: CEL's own library and extensions, the
// variables, and ngrok's functions.
var environment = sync.OnceValue(func() *cel.Env {
	options := []cel.EnvOption{
		ext.Strings(), ext.Encoders(ext.EncodersVersion(1)), ext.Lists(ext.ListsMaxRangeSize(maxRange)), ext.Math(), ext.Sets(),
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(64), cel.CrossTypeNumericComparisons(true),
	}
	for name, v := range variables {
		options = append(options, cel.Variable(name, v.of))
	}
	text := func(f func(string) ref.Val) cel.OverloadOpt {
		return cel.UnaryBinding(func(v ref.Val) ref.Val { return f(string(v.(types.String))) })
	}
	sum := func(name string, f func([]byte) []byte) cel.EnvOption {
		return cel.Function("hash."+name, cel.Overload("hash_"+name, []*cel.Type{cel.StringType}, cel.StringType,
			text(func(s string) ref.Val { return types.String(hex.EncodeToString(f([]byte(s)))) })))
	}
	options = append(options,
		cel.Function("inCidrRange", cel.Overload("in_cidr_range", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(inCIDRRange))),
		cel.Function("inCidrRanges", cel.Overload("in_cidr_ranges", []*cel.Type{cel.StringType, cel.ListType(cel.StringType)}, cel.BoolType, cel.BinaryBinding(inCIDRRanges))),
		cel.Function("isPrivateIp", cel.MemberOverload("is_private_ip", []*cel.Type{cel.StringType}, cel.BoolType, text(isPrivateIP))),
		cel.Function("lower", cel.MemberOverload("string_lower", []*cel.Type{cel.StringType}, cel.StringType,
			text(func(s string) ref.Val { return types.String(strings.ToLower(s)) }))),
		cel.Function("upper", cel.MemberOverload("string_upper", []*cel.Type{cel.StringType}, cel.StringType,
			text(func(s string) ref.Val { return types.String(strings.ToUpper(s)) }))),
		cel.Function("rand.int", cel.Overload("rand_int", []*cel.Type{cel.IntType, cel.IntType}, cel.IntType, cel.BinaryBinding(randInt))),
		cel.Function("rand.double", cel.Overload("rand_double", nil, cel.DoubleType,
			cel.FunctionBinding(func(...ref.Val) ref.Val { return types.Double(rand.Float64()) }))),
		cel.Function("base64.encode", cel.Overload("base64_encode_string", []*cel.Type{cel.StringType}, cel.StringType,
			text(func(s string) ref.Val { return types.String(base64.StdEncoding.EncodeToString([]byte(s))) }))),
		cel.Function("json.decode", cel.Overload("json_decode", []*cel.Type{cel.StringType}, cel.DynType, text(jsonDecode))),
		sum("md5", func(b []byte) []byte { s := md5.Sum(b); return s[:] }),
		sum("sha1", func(b []byte) []byte { s := sha1.Sum(b); return s[:] }),
		sum("sha256", func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }),
		sum("sha512", func(b []byte) []byte { s := sha512.Sum512(b); return s[:] }),
	)
	env, err := cel.NewEnv(options...)
	if err != nil {
		panic("policy: " + err.Error()) // nothing of it comes from outside: any test fails
	}
	return env
})

func inCIDRRange(ip, network ref.Val) ref.Val {
	a, err := netip.ParseAddr(string(ip.(types.String)))
	if err != nil {
		return types.NewErr("inCidrRange: %q is no IP address", ip.Value())
	}
	p, err := parseNetwork(string(network.(types.String)))
	if err != nil {
		return types.NewErr("inCidrRange: %q is no network%s", network.Value(), halfMapped(err))
	}
	return types.Bool(p.Contains(address(a)))
}

func inCIDRRanges(ip, list ref.Val) ref.Val {
	l, ok := list.(traits.Lister)
	if !ok {
		return types.MaybeNoSuchOverloadErr(list)
	}
	for it := l.Iterator(); it.HasNext() == types.True; {
		next, ok := it.Next().(types.String)
		if !ok {
			return types.NewErr("inCidrRanges: expected strings")
		}
		if in := inCIDRRange(ip, next); in != types.False {
			return in
		}
	}
	return types.False
}

func isPrivateIP(s string) ref.Val {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return types.NewErr("isPrivateIp: %q is no IP address", s)
	}
	a = address(a)
	return types.Bool(a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast())
}

func randInt(low, high ref.Val) ref.Val {
	from, to := int64(low.(types.Int)), int64(high.(types.Int))
	if to < from || to-from < 0 || to-from+1 <= 0 {
		return types.NewErr("rand.int: %d to %d is no range", from, to)
	}
	return types.Int(from + rand.Int64N(to-from+1))
}

func jsonDecode(s string) ref.Val {
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return types.NewErr("json.decode: %v", err)
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}
