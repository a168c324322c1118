// The package's front loads all of it.
import Range from 'semver/classes/range.js'
import parse from 'semver/functions/parse.js'

/** A range of semantic versions that has been read. Made by `parseVersionRange` alone. */
export type VersionRange = Range

/** The longest range, in UTF-16 units. */
const maxLength = 256

/**
 * Reads a range of versions as npm writes them: `^1.2`, `>=1.2.0 <2`, `1.x || 2.x`, `*`.
 * [github.com/npm/node-semver, Ranges]
 * @throws RangeError that says how a range is written
 */
export function parseVersionRange(text: string): VersionRange {
  // To npm nothing is any version, and so is what stands behind the || of `1.x ||`.
  if (text.split('||').some((alternative) => alternative.trim() === ''))
    throw new RangeError('the version range is empty, or a part of it: write * for any version')
  if (text.length > maxLength)
    throw new RangeError(`the version range has more than ${maxLength} characters`)
  try {
    return new Range(text)
  } catch (error) {
    throw new RangeError('the version range must be like ^1.2, >=1.2.0 <2.0.0 or 1.x || 2.x', {
      cause: error,
    })
  }
}

/**
 * Whether a tag is a version of the range. `1.2.3` and `v1.2.3` are versions, `1.2` and `latest` are none; a
 * pre-release is in a range only if the range names one of the same version, as `>=1.2.3-rc.1` does.
 */
export function isInRange(range: VersionRange, tag: string): boolean {
  const version = parse(tag)
  return version !== null && range.test(version)
}
