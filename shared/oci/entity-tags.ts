/**
 * The digests of an `If-Match` or `If-None-Match`: the entity tags of this API are digests, quoted as they should be
 * or not, weak or not; `*` is any. [RFC 9110 §13.1]
 * @returns an empty list without the header
 */
export function parseEntityTags(header: string | undefined): readonly string[] {
  if (header === undefined) return []
  return header.split(',').map((tag) =>
    tag
      .trim()
      .replace(/^W\//, '')
      .replace(/^"(.*)"$/, '$1'),
  )
}

/** Whether they name what is there now; nothing names what is not there. */
export function namesDigest(tags: readonly string[], current: string | undefined): boolean {
  return current !== undefined && tags.some((tag) => tag === '*' || tag === current)
}
