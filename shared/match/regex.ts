import { RE2JS } from 're2js'

/** A regular expression that has been read. Made by `parseRegex` alone. */
export type Regex = RE2JS

/** The longest expression, in UTF-16 units. */
const maxLength = 512

/** The most steps that an expression may compile to: one match takes as many for each character, at worst. */
const maxSteps = 1024

/**
 * Reads a regular expression of RE2, which takes time in proportion to what it is matched with, whatever it says.
 * [github.com/google/re2/wiki/Syntax]
 * @throws RangeError that says what is malformed
 */
export function parseRegex(text: string): Regex {
  if (text === '')
    throw new RangeError('the regular expression is empty: write .* for whatever there is')
  if (text.length > maxLength)
    throw new RangeError(`the regular expression has more than ${maxLength} characters`)
  const regex = compile(text)
  if (regex.programSize() > maxSteps)
    throw new RangeError('the regular expression repeats too much: lower its counts, like {1,100}')
  return regex
}

/** Whether the whole of a text matches: `v1` does not match `v1.2`, and `v1.*` does. */
export function matchesRegex(regex: Regex, text: string): boolean {
  return regex.matches(text)
}

function compile(text: string): Regex {
  try {
    return RE2JS.compile(text)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new RangeError(
      `the regular expression is not one of RE2, which has neither look-around nor back-references: ${reason}`,
      { cause: error },
    )
  }
}
