//! What the Jsonnet evaluator's errors say to people.

use rsjsonnet_lang::lexer::LexError;
use rsjsonnet_lang::parser::{ActualToken, ExpectedToken, ParseError};
use rsjsonnet_lang::program::{AnalyzeError, EvalErrorKind, EvalErrorValueType, LoadError};
use rsjsonnet_lang::span::SpanId;
use rsjsonnet_lang::token::STokenKind;

use super::error::Text;

/// The place and the message of an error found before evaluation.
pub(super) fn of_load_error(error: &LoadError) -> (SpanId, Text) {
    match error {
        LoadError::Lex(error) => of_lex_error(error),
        LoadError::Parse(ParseError::Expected {
            span,
            expected,
            instead,
        }) => {
            let mut wanted: Vec<String> = expected.iter().map(expected_token).collect();
            wanted.dedup();
            let (found, wanted) = (actual_token(instead), wanted.join(", "));
            let text = Text::new(
                format!("syntax error: found {found} where one of these can stand: {wanted}"),
                format!("構文エラー: {found} があります。ここに書けるもの: {wanted}"),
            );
            (*span, text)
        }
        LoadError::Analyze(error) => of_analyze_error(error),
    }
}

fn of_lex_error(error: &LexError) -> (SpanId, Text) {
    match error {
        LexError::InvalidChar { span, chr } => (
            *span,
            Text::new(
                format!("the character {chr:?} can't stand here"),
                format!("文字 {chr:?} はここに書けません"),
            ),
        ),
        LexError::InvalidUtf8 { span, .. } => {
            (*span, Text::new("not UTF-8", "UTF-8 ではありません"))
        }
        LexError::UnfinishedMultilineComment { span } => (
            *span,
            Text::new(
                "the comment has no end */",
                "コメントの終わり */ がありません",
            ),
        ),
        LexError::LeadingZeroInNumber { span }
        | LexError::MissingFracDigits { span }
        | LexError::MissingExpDigits { span }
        | LexError::MissingDigitAfterUnderscore { span }
        | LexError::ExpOverflow { span } => (
            *span,
            Text::new("malformed number", "数値の書き方が正しくありません"),
        ),
        LexError::InvalidEscapeInString { span, .. }
        | LexError::IncompleteUnicodeEscape { span }
        | LexError::InvalidUtf16EscapeSequence { span, .. } => (
            *span,
            Text::new(
                "malformed escape in a string",
                "文字列のエスケープが正しくありません",
            ),
        ),
        LexError::UnfinishedString { span } => (
            *span,
            Text::new("the string has no end", "文字列が閉じられていません"),
        ),
        LexError::MissingLineBreakAfterTextBlockStart { span }
        | LexError::MissingWhitespaceTextBlockStart { span }
        | LexError::InvalidTextBlockTermination { span } => (
            *span,
            Text::new(
                "malformed text block |||",
                "テキストブロック ||| の書き方が正しくありません",
            ),
        ),
    }
}

fn of_analyze_error(error: &AnalyzeError) -> (SpanId, Text) {
    match error {
        AnalyzeError::UnknownVariable { span, name } => (
            *span,
            Text::new(
                format!("unknown variable '{name}'"),
                format!("変数 '{name}' は定義されていません"),
            ),
        ),
        AnalyzeError::SelfOutsideObject { self_span: span }
        | AnalyzeError::SuperOutsideObject { super_span: span }
        | AnalyzeError::DollarOutsideObject { dollar_span: span } => (
            *span,
            Text::new(
                "self, super and $ need an object around them",
                "self、super、$ はオブジェクトの中だけで使えます",
            ),
        ),
        AnalyzeError::RepeatedLocalName {
            repeated_span,
            name,
            ..
        }
        | AnalyzeError::RepeatedFieldName {
            repeated_span,
            name,
            ..
        }
        | AnalyzeError::RepeatedParamName {
            repeated_span,
            name,
            ..
        } => (
            *repeated_span,
            Text::new(
                format!("'{name}' occurs twice"),
                format!("'{name}' が重複しています"),
            ),
        ),
        AnalyzeError::PositionalArgAfterNamed { arg_span } => (
            *arg_span,
            Text::new(
                "a positional argument after a named one",
                "名前付き引数の後に位置引数があります",
            ),
        ),
        AnalyzeError::TextBlockAsImportPath { span }
        | AnalyzeError::ComputedImportPath { span } => (
            *span,
            Text::new(
                "the path of an import has to be a plain string",
                "import のパスは文字列リテラルでなければなりません",
            ),
        ),
    }
}

/// The place, if the error has one of its own, and the message of an error found by evaluation.
pub(super) fn of_eval_error(error: &EvalErrorKind) -> (Option<SpanId>, Text) {
    use EvalErrorKind as E;
    match error {
        E::StackOverflow => (
            None,
            Text::new(
                "calls are nested too deeply",
                "関数呼び出しの入れ子が深すぎます",
            ),
        ),
        E::InfiniteRecursion => (
            None,
            Text::new("a value depends on itself", "値が自分自身に依存しています"),
        ),
        E::ExplicitError { span, message } => (Some(*span), same(format!("error: {message}"))),
        E::AssertFailed { span, message } => (
            Some(*span),
            match message {
                Some(message) => same(format!("assert: {message}")),
                None => Text::new("assertion failed", "assert が成り立ちません"),
            },
        ),
        E::UnknownObjectField { span, field_name } => (
            Some(*span),
            Text::new(
                format!("the object has no field '{field_name}'"),
                format!("オブジェクトにフィールド '{field_name}' がありません"),
            ),
        ),
        E::RepeatedFieldName { span, name } => (
            Some(*span),
            Text::new(
                format!("'{name}' occurs twice"),
                format!("'{name}' が重複しています"),
            ),
        ),
        E::ImportFailed { span, path } => (
            Some(*span),
            Text::new(
                format!("import '{path}' failed"),
                format!("import '{path}' に失敗しました"),
            ),
        ),
        E::UnknownExtVar { name } => (
            None,
            Text::new(
                format!("std.extVar('{name}'): a story has no external variables"),
                format!("std.extVar('{name}'): ストーリーに外部変数はありません"),
            ),
        ),
        E::ManifestFunction => (
            None,
            Text::new(
                "a function is left in the story: call it, or hide it with ::",
                "ストーリーに関数が残っています。呼び出すか、:: で隠してください",
            ),
        ),
        E::InvalidBinaryOpTypes {
            span,
            op,
            lhs_type,
            rhs_type,
        } => (
            *span,
            Text::new(
                format!(
                    "operator {op:?} does not take {} and {}",
                    name_of(*lhs_type),
                    name_of(*rhs_type)
                ),
                format!(
                    "演算子 {op:?} は {} と {} には使えません",
                    name_of(*lhs_type),
                    name_of(*rhs_type)
                ),
            ),
        ),
        E::InvalidStdFuncArgType {
            func_name,
            arg_index,
            got_type,
            ..
        } => (
            None,
            Text::new(
                format!(
                    "std.{func_name}: argument {} can't be {}",
                    arg_index + 1,
                    name_of(*got_type)
                ),
                format!(
                    "std.{func_name}: {} 番目の引数に {} は使えません",
                    arg_index + 1,
                    name_of(*got_type)
                ),
            ),
        ),
        E::InvalidIndexedType { span, got_type }
        | E::InvalidSlicedType { span, got_type }
        | E::SliceIndexOrStepIsNotNumber { span, got_type }
        | E::StringIndexIsNotNumber { span, got_type }
        | E::ArrayIndexIsNotNumber { span, got_type }
        | E::ObjectIndexIsNotString { span, got_type }
        | E::FieldNameIsNotString { span, got_type }
        | E::ForSpecValueIsNotArray { span, got_type }
        | E::CondIsNotBool { span, got_type } => (Some(*span), wrong_type(*got_type)),
        E::InvalidUnaryOpType { span, rhs_type, .. } => (Some(*span), wrong_type(*rhs_type)),
        E::CalleeIsNotFunction { span, got_type } => (*span, wrong_type(*got_type)),
        E::NumericIndexIsNotValid { span, index } => (
            Some(*span),
            Text::new(
                format!("{index} can't be an index"),
                format!("{index} は添字にできません"),
            ),
        ),
        E::NumericIndexOutOfRange {
            span,
            index,
            length,
        } => (
            Some(*span),
            Text::new(
                format!("there is no item {index} among {length}"),
                format!("{length} 個の中に {index} 番の要素はありません"),
            ),
        ),
        E::TooManyCallArgs { span, .. }
        | E::UnknownCallParam { span, .. }
        | E::RepeatedCallParam { span, .. }
        | E::CallParamNotBound { span, .. } => (
            *span,
            Text::new(
                "the arguments do not fit the function",
                "引数が関数と合いません",
            ),
        ),
        E::NumberNotBitwiseSafe { span }
        | E::NumberOverflow { span }
        | E::NumberNan { span }
        | E::DivByZero { span }
        | E::ShiftByNegative { span } => (
            *span,
            Text::new("the arithmetic has no result", "計算結果がありません"),
        ),
        E::FieldOfNonObject { span } | E::SuperWithoutSuperObject { span } => (
            Some(*span),
            Text::new("there is no object here", "ここにオブジェクトがありません"),
        ),
        E::Other { span, message } => (*span, same(message.clone())),
        E::NativeCallFailed
        | E::AssertEqualFailed { .. }
        | E::CompareNullInequality
        | E::CompareBooleanInequality
        | E::CompareObjectInequality
        | E::CompareFunctions
        | E::CompareDifferentTypesInequality { .. }
        | E::PrimitiveEqualsNonPrimitive { .. } => (
            None,
            Text::new(
                "the values can't be compared, or are not equal as asserted",
                "値を比較できないか、assert の通りに等しくありません",
            ),
        ),
    }
}

fn same(text: String) -> Text {
    Text::new(text.clone(), text)
}

fn wrong_type(got: EvalErrorValueType) -> Text {
    Text::new(
        format!("{} can't be used here", name_of(got)),
        format!("{} はここでは使えません", name_of(got)),
    )
}

fn name_of(kind: EvalErrorValueType) -> &'static str {
    match kind {
        EvalErrorValueType::Null => "null",
        EvalErrorValueType::Bool => "boolean",
        EvalErrorValueType::Number => "number",
        EvalErrorValueType::String => "string",
        EvalErrorValueType::Array => "array",
        EvalErrorValueType::Object => "object",
        EvalErrorValueType::Function => "function",
    }
}

fn expected_token(token: &ExpectedToken) -> String {
    match token {
        ExpectedToken::EndOfFile => "end of file".to_owned(),
        ExpectedToken::Simple(kind) => simple_token(*kind).to_owned(),
        ExpectedToken::Ident => "name".to_owned(),
        ExpectedToken::Number => "number".to_owned(),
        ExpectedToken::String | ExpectedToken::TextBlock => "string".to_owned(),
        ExpectedToken::Expr => "expression".to_owned(),
        ExpectedToken::BinaryOp => "operator".to_owned(),
    }
}

fn actual_token(token: &ActualToken) -> String {
    match token {
        ActualToken::EndOfFile => "end of file".to_owned(),
        ActualToken::Simple(kind) => simple_token(*kind).to_owned(),
        ActualToken::OtherOp(text) | ActualToken::Ident(text) => {
            let shown: String = text.chars().take(40).collect();
            format!("'{shown}'")
        }
        ActualToken::Number => "number".to_owned(),
        ActualToken::String | ActualToken::TextBlock => "string".to_owned(),
    }
}

fn simple_token(kind: STokenKind) -> &'static str {
    match kind {
        STokenKind::Assert => "'assert'",
        STokenKind::Else => "'else'",
        STokenKind::Error => "'error'",
        STokenKind::False => "'false'",
        STokenKind::For => "'for'",
        STokenKind::Function => "'function'",
        STokenKind::If => "'if'",
        STokenKind::Import => "'import'",
        STokenKind::Importstr => "'importstr'",
        STokenKind::Importbin => "'importbin'",
        STokenKind::In => "'in'",
        STokenKind::Local => "'local'",
        STokenKind::Null => "'null'",
        STokenKind::Tailstrict => "'tailstrict'",
        STokenKind::Then => "'then'",
        STokenKind::Self_ => "'self'",
        STokenKind::Super => "'super'",
        STokenKind::True => "'true'",
        STokenKind::Exclam => "'!'",
        STokenKind::ExclamEq => "'!='",
        STokenKind::Dollar => "'$'",
        STokenKind::Percent => "'%'",
        STokenKind::Amp => "'&'",
        STokenKind::AmpAmp => "'&&'",
        STokenKind::LeftParen => "'('",
        STokenKind::RightParen => "')'",
        STokenKind::Asterisk => "'*'",
        STokenKind::Plus => "'+'",
        STokenKind::PlusColon => "'+:'",
        STokenKind::PlusColonColon => "'+::'",
        STokenKind::PlusColonColonColon => "'+:::'",
        STokenKind::Comma => "','",
        STokenKind::Minus => "'-'",
        STokenKind::Dot => "'.'",
        STokenKind::Slash => "'/'",
        STokenKind::Colon => "':'",
        STokenKind::ColonColon => "'::'",
        STokenKind::ColonColonColon => "':::'",
        STokenKind::Semicolon => "';'",
        STokenKind::Lt => "'<'",
        STokenKind::LtLt => "'<<'",
        STokenKind::LtEq => "'<='",
        STokenKind::Eq => "'='",
        STokenKind::EqEq => "'=='",
        STokenKind::Gt => "'>'",
        STokenKind::GtEq => "'>='",
        STokenKind::GtGt => "'>>'",
        STokenKind::LeftBracket => "'['",
        STokenKind::RightBracket => "']'",
        STokenKind::Hat => "'^'",
        STokenKind::LeftBrace => "'{'",
        STokenKind::Pipe => "'|'",
        STokenKind::PipePipe => "'||'",
        STokenKind::RightBrace => "'}'",
        STokenKind::Tilde => "'~'",
    }
}
