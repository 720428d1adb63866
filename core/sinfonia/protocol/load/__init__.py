"""What a memory node has done lately, by class of minitransaction: counted, asked for, told."""
