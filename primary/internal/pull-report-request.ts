import type { Static } from 'typebox'
import { ApiError } from '../../shared/api/errors.ts'
import { isDigest } from '../../shared/oci/digest.ts'
import { isTag } from '../../shared/oci/reference.ts'
import { maxReportedPulls, type PullReport } from '../../shared/replication/pulls.ts'
import { checkOf } from '../../shared/schema/check.ts'
import { Type } from '../../shared/schema/type.ts'

const count = (minimum: number) => Type.Integer({ minimum, maximum: Number.MAX_SAFE_INTEGER })
const model = Type.Object({
  log: Type.String({ pattern: '^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$' }),
  n: count(1),
  pulls: Type.Array(
    Type.Object({
      repositoryId: Type.Integer({ minimum: 1, maximum: 2 ** 31 - 1 }),
      digest: Type.String({ maxLength: 160 }),
      tag: Type.Optional(Type.String({ maxLength: 128 })),
      count: count(1),
      agoMs: count(0),
    }),
    { maxItems: maxReportedPulls },
  ),
})
const check = checkOf(model)

/** What an edge reports of its clients' pulls. @throws ApiError BAD_REQUEST */
export function pullReportIn(body: unknown): PullReport {
  if (check(body) !== undefined) throw new ApiError('BAD_REQUEST', 'this is no report of pulls')
  const report = body as Static<typeof model>
  const pulls = report.pulls.map(({ digest, tag, ...pull }) => {
    if (!isDigest(digest) || (tag !== undefined && !isTag(tag)))
      throw new ApiError('BAD_REQUEST', 'a pull is of a digest, or of a tag and a digest')
    return { ...pull, digest, ...(tag !== undefined && { tag }) }
  })
  return { ...report, pulls }
}
