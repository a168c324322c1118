import { isEdgeId } from '../../shared/discovery/service.ts'
import { OciError } from '../../shared/oci/errors.ts'

// Requests between edges say which edges they came through, so that none goes in a circle.

/** The ids of the edges that a request came through, the first one first. Node's spelling of `Outport-Via`. */
export const viaHeader = 'outport-via'
/** Of an edge that is busy: the ids of those that hold, or are receiving, what it was asked for. */
export const tryHeader = 'Outport-Try'
/**
 * The first piece of the part that an edge is asked for as its home, and whether it is to fetch it: `12`, `12;fetch`.
 * Node's spelling of `Outport-Part`.
 */
export const partHeader = 'outport-part'
/** The request directive of who wants only what is there already, or on its way. [RFC 9111 §5.2.1.7] */
export const onlyIfCached = 'only-if-cached'

/** More edges than any tree has levels, each way. */
const maxHops = 8

/**
 * Reads what a request says of its way here.
 * @param asker who asks, by its certificate: the last one, whatever the header says
 * @throws OciError 508 when it came through `me`, or through more edges than any tree has levels; 400 of what is no list of ids
 */
export function readVia(
  header: string | undefined,
  { asker, me }: { readonly asker: string; readonly me: string },
): readonly string[] {
  const said = readIds(header)
  if (said === undefined)
    throw new OciError('UNSUPPORTED', 'Outport-Via is a list of edge ids', { status: 400 })
  const via = said.at(-1) === asker ? said : [...said, asker]
  if (via.includes(me))
    throw new OciError('UNAVAILABLE', 'this request came through this edge already', {
      status: 508,
      detail: { via },
    })
  if (via.length > maxHops)
    throw new OciError('UNAVAILABLE', `this request came through ${via.length} edges already`, {
      status: 508,
    })
  return via
}

/** What a request to the next edge says. */
export function formatVia(via: readonly string[], me: string): string {
  return [...via, me].join(', ')
}

/** @returns undefined of what is no list of edge ids, or a long one */
function readIds(header: string | undefined): readonly string[] | undefined {
  if (header === undefined || header.trim() === '') return []
  const ids = header.split(',', 64).map((id) => id.trim())
  return ids.length < 64 && ids.every(isEdgeId) ? ids : undefined
}

/** What a request for a part says. */
export interface PartAsked {
  /** The first one. */
  readonly piece: number
  /** Also if nothing of the blob is here. */
  readonly isFetched: boolean
}

/** @returns undefined of what names no piece */
export function readPart(header: string | undefined): PartAsked | undefined {
  const [, piece, parameter] = /^(\d{1,7})(;fetch)?$/.exec(header ?? '') ?? []
  return piece === undefined
    ? undefined
    : { piece: Number(piece), isFetched: parameter !== undefined }
}

export function formatPart({ piece, isFetched }: PartAsked): string {
  return isFetched ? `${piece};fetch` : `${piece}`
}
