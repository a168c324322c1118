import { isRecord } from '../config/record.ts'
import type { Coordinate } from '../site/nearness.ts'

/** As serf's; a vector is 8 long. */
const mostDimensions = 32

/**
 * Reads what `/v1/coordinate/nodes` answers, by the nodes' names. An entry that is none is passed over; of a node's
 * several, one a network segment, the first counts.
 */
export function parseCoordinates(body: unknown): ReadonlyMap<string, Coordinate> {
  const coordinates = new Map<string, Coordinate>()
  for (const entry of Array.isArray(body) ? (body as readonly unknown[]) : []) {
    if (!isRecord(entry)) continue
    const { Node: node, Coord: coord } = entry
    const coordinate = parseCoordinate(coord)
    if (typeof node !== 'string' || coordinate === undefined || coordinates.has(node)) continue
    coordinates.set(node, coordinate)
  }
  return coordinates
}

function parseCoordinate(coord: unknown): Coordinate | undefined {
  if (!isRecord(coord)) return undefined
  const { Vec: vec, Height: height, Adjustment: adjustment, Error: error } = coord
  if (!Array.isArray(vec) || vec.length > mostDimensions || !vec.every(isFinite)) return undefined
  if (!isFinite(height) || !isFinite(adjustment) || !isFinite(error)) return undefined
  return { vec, height, adjustment, error }
}

function isFinite(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value)
}
